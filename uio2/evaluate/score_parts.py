"""Scoring one task, whole or in parts that are joined: the same figures, bit for bit.

A part is a run of rows with what they score by themselves and what they add to sums; intervals are drawn when parts are
joined, on the values of all examples in their order. So it does not matter who scored which row. Ways of scoring whose
examples depend on each other (`Family.alone` is false) are scored as one part.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from uio2.evaluate.answers import Answer, Labelled, Painted
from uio2.evaluate.baselines import Baseline, baseline_answers
from uio2.evaluate.families import BOX_CLASSIFICATION, Family, family_of
from uio2.evaluate.predictions import Header, TaskPredictions
from uio2.evaluate.scoring import Scores
from uio2.evaluate.scoring_pictures import RealPictures, score_pictures
from uio2.evaluate.slices import Labels, chosen_kinds, sliced
from uio2.evaluate.specs import ScoreSpec
from uio2.pipeline.stage import StageError
from uio2.tasks.metrics.result import MetricError, Resampling, Result, joined, mean_result

DECIMALS, PIXEL_DECIMALS = 6, 3
# The baseline stands as a plain figure: its interval is not shown. Nor is that of a part.
ONCE = Resampling(resamples=1)


@dataclasses.dataclass(frozen=True)
class TaskContext:
    """What is known of a task beside its rows.

    Attributes:
      baseline: the constant answer, None where there is none.
      classes: of box classification: names that count as an answer.
      real: of tasks that paint what there is no other truth of: where the real pictures are.
    """

    baseline: Baseline = None
    classes: tuple[str, ...] = ()
    real: RealPictures | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of a task, scored.

    Attributes:
      header: of their first shard.
      places: index and example id of each.
      own: the model's scores.
      base: those of the constant answer; None where there is none.
      labels: the slices of each row.
      unparsable: answers that are none.
    """

    header: Header
    places: tuple[tuple[int, str], ...]
    own: Scores
    base: Scores | None
    labels: Labels
    unparsable: int

    @property
    def family(self) -> Family:
        """Their way of scoring."""
        return family_of(self.header.task)


@dataclasses.dataclass(frozen=True)
class TaskScores:
    """What metrics.json says of a task, JSON values.

    Attributes:
      task, split, checkpoint, decoding: as in its prediction files.
      n, unparsable: examples, and answers that are none.
      figures: metric -> value, low, high, baseline, n.
      slices: as in `uio2.evaluate.slices`.
    """

    task: str
    split: str
    checkpoint: str
    decoding: Mapping[str, Any]
    n: int
    unparsable: int
    figures: Mapping[str, Mapping[str, Any]]
    slices: Mapping[str, Sequence[Mapping[str, Any]]]

    @classmethod
    def of(cls, part: Part, *, spec: ScoreSpec) -> TaskScores:
        """Those of a whole task.

        Raises:
          StageError: a figure is no number.
        """
        header = part.header
        figures = {metric: _figure(metric, figure, part) for metric, figure in part.own.results.items()}
        return cls(
            header.task, header.split, header.checkpoint, dict(header.decoding), len(part.places), part.unparsable,
            figures, _slices(part, spec=spec),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows with the answers read from them, and the part they make."""

    found: TaskPredictions
    answers: list[Answer]
    part: Part

    def lines(self) -> Iterator[str]:
        """Their lines of per_example.jsonl."""
        base = self.part.base.per_example if self.part.base else {}
        sides = {"scores": self.part.own.per_example, "baseline": base}
        for i, (row, answer) in enumerate(zip(self.found.rows, self.answers, strict=True)):
            value = {"task": row.task, "index": row.index, "example_id": row.example_id, "answer": plain(answer)}
            value |= {
                side: {name: round(float(scores[i]), DECIMALS) for name, scores in found.items()}
                for side, found in sides.items()
            }
            yield json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def score_rows(found: TaskPredictions, *, about: TaskContext, spec: ScoreSpec, resampling: Resampling) -> Rows:
    """Scores rows of one task, and the constant answer on them.

    Raises:
      StageError: an example cannot be scored; names task, metric and example.
      ValueError: the rows cannot be scored by themselves, but may be among others.
    """
    family = family_of(found.header.task)
    answers = family.read(found)
    metrics = metrics_of(spec, task=found.header.task, family=family)
    try:
        if about.real is not None:
            own = score_pictures(found.rows, answers, real=about.real, resampling=resampling)
        else:
            own = family.score(found.rows, answers, resampling)
        _check_metrics(own, metrics, task=found.header.task)
        base = None
        if about.baseline is not None:
            said = baseline_answers(family, baseline=about.baseline, rows=found.rows)
            base = family.score(found.rows, said, ONCE).only(metrics)
    except MetricError as error:
        raise StageError(f"task {found.header.task!r} cannot be scored: {error}") from error
    labels = Labels.of(found.rows, kinds=chosen_kinds(family.slices, asked=spec.slices))
    places = tuple((row.index, row.example_id) for row in found.rows)
    none = unparsable(family, answers=answers, classes=about.classes)
    return Rows(found, answers, Part(found.header, places, own.only(metrics), base, labels, none))


def score_task(found: TaskPredictions, *, about: TaskContext, spec: ScoreSpec) -> Rows:
    """Every figure of one task's predictions with its interval, and those of the constant answer.

    Raises:
      StageError: they cannot be scored.
    """
    try:
        return score_rows(found, about=about, spec=spec, resampling=resampling_of(spec))
    except ValueError as error:
        raise StageError(f"task {found.header.task!r} cannot be scored as a whole: {error}") from error


def join(parts: Sequence[Part], *, spec: ScoreSpec) -> Part:
    """The part of all their rows, in this order."""
    first = parts[0]
    own = _joined([part.own for part in parts], resampling_of(spec))
    base = None if first.base is None else _joined([part.base for part in parts if part.base], ONCE)
    labels = Labels({kind: [name for part in parts for name in part.labels.by_kind[kind]]
                     for kind in first.labels.by_kind})  # fmt: skip
    places = tuple(place for part in parts for place in part.places)
    return Part(first.header, places, own, base, labels, sum(part.unparsable for part in parts))


def _slices(part: Part, *, spec: ScoreSpec) -> dict[str, list[dict[str, Any]]]:
    """The figures of the slices; where no figure can be sliced, what examples score by themselves."""
    ids = tuple(example for _, example in part.places)
    results = {
        name: found
        for name, found in part.own.results.items()
        if found.ids == ids and (found.scores is not None or found.statistic is not None)
    }
    ranking = part.family.ranking
    if not results and ranking in part.own.per_example:
        scores = part.own.per_example[ranking]
        results = {ranking: mean_result(f"slice/{ranking}", ids=ids, scores=scores, resampling=ONCE)}
    return sliced(results, part.labels, resampling=resampling_of(spec), most=spec.max_slices, decimals=DECIMALS)


def metrics_of(spec: ScoreSpec, *, task: str, family: Family) -> tuple[str, ...]:
    """The figures asked for."""
    asked = spec.metrics.get(task, spec.metrics.get(family.name))
    return family.metrics if asked is None else tuple(asked)


def resampling_of(spec: ScoreSpec) -> Resampling:
    """How intervals are drawn."""
    return Resampling(seed=spec.seed, resamples=spec.resamples, confidence=spec.confidence)


def unparsable(family: Family, *, answers: Sequence[Answer], classes: tuple[str, ...] = ()) -> int:
    """How many answers are none: no box or point, an empty text, or a class outside `classes` where it names any."""
    if family is BOX_CLASSIFICATION and classes:
        known = {name.lower() for name in classes}
        return sum(str(a).lower() not in known for a in answers)
    return sum(a is None or (isinstance(a, str) and not a.strip()) or _empty(a) for a in answers)


def plain(answer: Answer) -> Any:
    """The answer as JSON, pixels rounded."""
    if isinstance(answer, Painted):
        return answer.media
    if isinstance(answer, Labelled):
        return {"boxes": plain(list(answer.boxes)), "labels": list(answer.labels)}
    if isinstance(answer, np.ndarray):
        return plain(answer.tolist())
    if isinstance(answer, list):
        return [plain(v) for v in answer]
    return round(answer, PIXEL_DECIMALS) if isinstance(answer, float) else answer


def _empty(answer: Answer) -> bool:
    return isinstance(answer, (list, Labelled)) and not len(answer)


def _check_metrics(scores: Scores, wanted: Sequence[str], *, task: str) -> None:
    """Some figures a set may lack (no small objects); a name that no set has is a mistake."""
    if wanted and not set(wanted) & scores.results.keys():
        raise StageError(
            f"ScoreSpec.metrics of {task!r} are {list(wanted)}; its way of scoring gives {', '.join(scores.results)}"
        )


def _joined(parts: Sequence[Scores], resampling: Resampling) -> Scores:
    first = parts[0]
    results = {name: joined([part.results[name] for part in parts], resampling=resampling) for name in first.results}
    alone = {name: np.concatenate([part.per_example[name] for part in parts]) for name in first.per_example}
    return Scores(results, alone)


def _figure(metric: str, figure: Result, part: Part) -> dict[str, float | int | bool | None]:
    interval, n = figure.interval, len(figure.ids)
    if not np.isfinite([interval.value, interval.low, interval.high]).all():
        raise StageError(f"task {part.header.task!r}: {metric} of {n} examples is {interval}; expected numbers")
    base = part.base.results.get(metric) if part.base else None
    values: dict[str, float | int | bool | None] = {
        "value": round(interval.value, DECIMALS),
        "low": round(interval.low, DECIMALS),
        "high": round(interval.high, DECIMALS),
        "baseline": None if base is None else round(base.value, DECIMALS),
        "n": n,
    }
    return values | {"less_is_better": True} if metric in part.family.errors else values
