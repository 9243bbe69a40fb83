"""The score stage: prediction files and datasets in, every figure with interval and baseline out.

    metrics.json        {"version", "metrics": {key: {value, low, high, baseline, n}}, "tasks": {task: {...}}, ...}
    per_example.jsonl   one line per example: task, index, example_id, scores, baseline, answer

A baseline is null where a way of scoring has none or the training split is missing; a figure of which less is better
says `"less_is_better": true`. Needs no model and no accelerator, and gives equal bytes for equal predictions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from uio2.evaluate import predictions as files
from uio2.evaluate.answers import Answer, Labelled, Painted
from uio2.evaluate.baselines import Baseline, baseline_answers, learn_baselines
from uio2.evaluate.datasets import stored_dataset
from uio2.evaluate.families import BOX_CLASSIFICATION, Family, family_of, key_prefixes
from uio2.evaluate.predictions import TaskPredictions
from uio2.evaluate.scoring import Scores
from uio2.evaluate.specs import ScoreSpec
from uio2.evaluate.summary import METRICS, PER_EXAMPLE
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageContext, StageError
from uio2.tasks.families import find_task
from uio2.tasks.metrics.result import MetricError, Resampling, Result
from uio2.tasks.specs import FIRST_TASKS

VERSION = 1
DECIMALS, PIXEL_DECIMALS = 6, 3
# The baseline stands as a plain figure: its interval is not shown.
_ONCE = Resampling(resamples=1)


@dataclasses.dataclass(frozen=True)
class ScoredTask:
    """One task with everything that is said of it.

    Attributes:
      found: its rows.
      family: its way of scoring.
      answers: one per row.
      own: the model's scores.
      baseline: the constant answer, and `base` its scores; None where there is none.
    """

    found: TaskPredictions
    family: Family
    answers: list[Answer]
    own: Scores
    baseline: Baseline
    base: Scores | None


def run(spec: ScoreSpec, context: StageContext) -> Mapping[str, Any]:
    """Scores the input `predictions`; baselines come from the datasets of its tasks, inputs by their names.

    Raises:
      StageError: nothing to score, or an example that cannot be.
    """
    folder = context.inputs["predictions"].path
    tasks = _reading_order([task for task, found in files.read_index(folder).items() if found["rows"]])
    if not any(family_of(task).metrics for task in tasks):
        why = f"{', '.join(tasks)} have no figure yet" if tasks else "check `tasks` and `max_examples` of predict"
        raise StageError(f"{folder} holds no predictions to score; {why}")
    steps = len(tasks) + 1
    baselines = learn_baselines(
        tasks,
        inputs=context.inputs,
        split=spec.baseline_split,
        limit=spec.max_baseline_examples,
        progress=lambda text: context.progress(0, steps, text),
    )
    prefixes = key_prefixes(tasks)
    result: dict[str, Any] = {"version": VERSION, "metrics": {}, "tasks": {}}
    with open(context.out / PER_EXAMPLE, "w", encoding="utf-8") as lines:
        for done, task in enumerate(tasks, 1):
            scored = score_task(files.read_task(folder, task=task), baseline=baselines[task], spec=spec)
            for metric, figure in scored.own.results.items():
                result["metrics"][f"{prefixes[task]}/{metric}"] = _figure(metric, figure, scored)
            result["tasks"][task] = _about(scored, prefixes[task], context.inputs)
            lines.writelines(_lines(scored))
            context.progress(done, steps, f"scored {task}: {len(scored.found.rows)} examples")
            header = scored.found.header
    result |= {"checkpoint": header.checkpoint, "confidence": spec.confidence, "resamples": spec.resamples}
    write_text(context.out / METRICS, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    context.metric(0, {key: figure["value"] for key, figure in result["metrics"].items()})
    context.progress(steps, steps, "scored")
    return {
        "metrics": result["metrics"],
        "examples": {task: about["n"] for task, about in result["tasks"].items()},
        "unparsable": {task: about["unparsable"] for task, about in result["tasks"].items()},
    }


def score_task(found: TaskPredictions, *, baseline: Baseline, spec: ScoreSpec) -> ScoredTask:
    """Every figure of one task's predictions, and those of the constant answer.

    Raises:
      StageError: an example cannot be scored; names task, metric and example.
    """
    family = family_of(found.header.task)
    answers = family.read(found)
    resampling = Resampling(seed=spec.seed, resamples=spec.resamples, confidence=spec.confidence)
    try:
        own = family.score(found.rows, answers, resampling).only(family.metrics)
        base = None
        if baseline is not None:
            plain = baseline_answers(family, baseline=baseline, rows=found.rows)
            base = family.score(found.rows, plain, _ONCE).only(family.metrics)
    except ValueError as error:
        kind = "" if isinstance(error, MetricError) else " as a whole"
        raise StageError(f"task {found.header.task!r} cannot be scored{kind}: {error}") from error
    return ScoredTask(found, family, answers, own, baseline, base)


def unparsable(family: Family, *, answers: list[Answer], classes: tuple[str, ...] = ()) -> int:
    """How many answers are none: no box or point, an empty text, or a class outside `classes` where it names any."""
    if family is BOX_CLASSIFICATION and classes:
        known = {name.lower() for name in classes}
        return sum(str(a).lower() not in known for a in answers)
    return sum(a is None or (isinstance(a, str) and not a.strip()) or _empty(a) for a in answers)


def _empty(answer: Answer) -> bool:
    return isinstance(answer, (list, Labelled)) and not len(answer)


def _reading_order(tasks: list[str]) -> list[str]:
    """Questions first, captions last, as the metric table reads best; unknown order by name."""
    rank = {task: i for i, task in enumerate((*FIRST_TASKS[1:], FIRST_TASKS[0]))}
    return sorted(tasks, key=lambda task: (rank.get(task, len(rank)), task))


def _figure(metric: str, figure: Result, scored: ScoredTask) -> dict[str, float | int | bool | None]:
    interval, n = figure.interval, len(figure.ids)
    if not np.isfinite([interval.value, interval.low, interval.high]).all():
        task = scored.found.header.task
        raise StageError(f"task {task!r}: {metric} of {n} examples is {interval}; expected numbers")
    base = scored.base.results.get(metric) if scored.base else None
    values: dict[str, float | int | bool | None] = {
        "value": round(interval.value, DECIMALS),
        "low": round(interval.low, DECIMALS),
        "high": round(interval.high, DECIMALS),
        "baseline": None if base is None else round(base.value, DECIMALS),
        "n": n,
    }
    return values | {"less_is_better": True} if metric in scored.family.errors else values


def _about(scored: ScoredTask, prefix: str, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    header, family, baseline = scored.found.header, scored.family, scored.baseline
    classes: tuple[str, ...] = ()
    if family is BOX_CLASSIFICATION:
        name = find_task(header.task).dataset
        classes = stored_dataset(inputs, name=name, why="box classification's list of classes").classes()
    return {
        "family": family.name,
        "prefix": prefix,
        "split": header.split,
        "n": len(scored.found.rows),
        "unparsable": unparsable(family, answers=scored.answers, classes=classes),
        "baseline": family.baseline or None,
        "baseline_answer": list(baseline) if isinstance(baseline, tuple) else baseline,
        "decoding": dict(header.decoding),
    }


def _lines(scored: ScoredTask) -> Iterator[str]:
    sides = {"scores": scored.own.per_example, "baseline": scored.base.per_example if scored.base else {}}
    for i, (row, answer) in enumerate(zip(scored.found.rows, scored.answers, strict=True)):
        value = {
            "task": row.task,
            "index": row.index,
            "example_id": row.example_id,
            "answer": _plain(answer),
        }
        value |= {
            side: {name: round(float(scores[i]), DECIMALS) for name, scores in found.items()}
            for side, found in sides.items()
        }
        yield json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(answer: Answer) -> Any:
    """The answer as JSON, pixels rounded."""
    if isinstance(answer, Painted):
        return answer.media
    if isinstance(answer, Labelled):
        return {"boxes": _plain(list(answer.boxes)), "labels": list(answer.labels)}
    if isinstance(answer, np.ndarray):
        return _plain(answer.tolist())
    if isinstance(answer, list):
        return [_plain(v) for v in answer]
    return round(answer, PIXEL_DECIMALS) if isinstance(answer, float) else answer
