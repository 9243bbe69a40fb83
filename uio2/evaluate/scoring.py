"""Scores of a set of answers, from prediction rows alone: no dataset, no model, no TensorFlow.

The baseline is scored by the same code with another answer in every row, so the two figures are comparable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from uio2.evaluate.baselines import Baseline
from uio2.evaluate.families import BOX_CLASSIFICATION, CAPTION, REFEXP, VQA, Family
from uio2.evaluate.predictions import Header, Prediction, PredictionsError
from uio2.tasks.metrics import captions
from uio2.tasks.metrics.bootstrap import Interval, bootstrap, bootstrap_mean
from uio2.tasks.metrics.boxes import first_box, refexp_scores
from uio2.tasks.metrics.exact_match import exact_match
from uio2.tasks.metrics.vqa import vqa_score

# A text, or a box `[y1, x1, y2, x2]` in source pixels, or None for no answer at all.
Answer = str | Sequence[float] | None


@dataclasses.dataclass(frozen=True)
class Scores:
    """What each example scored.

    Attributes:
      per_example: metric name -> [n] float64.
      corpus: metric name -> ([n, k] sums, statistic) for metrics that are not a mean over examples.
    """

    per_example: dict[str, np.ndarray]
    corpus: dict[str, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]] = dataclasses.field(default_factory=dict)

    def interval(self, metric: str, *, name: str, seed: int, resamples: int, confidence: float) -> Interval:
        """The figure of the set with its bootstrap interval; `name` decides the draws."""
        if metric in self.corpus:
            sums, statistic = self.corpus[metric]
            return bootstrap(
                sums, statistic=statistic, name=name, seed=seed, resamples=resamples, confidence=confidence
            )
        scores = self.per_example[metric]
        return bootstrap_mean(scores, name=name, seed=seed, resamples=resamples, confidence=confidence)

    def value(self, metric: str) -> float:
        """The figure of the set."""
        if metric in self.corpus:
            sums, statistic = self.corpus[metric]
            return float(statistic(sums.sum(axis=0, keepdims=True))[0])
        return float(self.per_example[metric].mean())


def answers_of(family: Family, *, header: Header, rows: Sequence[Prediction]) -> list[Answer]:
    """What the model answered: its text, or the first box in it."""
    if family is not REFEXP:
        return [row.text for row in rows]
    return [first_box(row.text, image_info=row.image_info, input_size=header.input_size) for row in rows]


def baseline_answers(family: Family, *, baseline: Baseline, rows: Sequence[Prediction]) -> list[Answer]:
    """The baseline's answer to each row; its box is a fraction of the image and becomes pixels here."""
    if family is not REFEXP or baseline is None or isinstance(baseline, str):
        return [baseline] * len(rows)
    out: list[Answer] = []
    for row in rows:
        height, width = row.image_info[3:5]
        out.append([float(v * s) for v, s in zip(baseline, (height, width, height, width), strict=True)])
    return out


def unparsable(family: Family, *, answers: Sequence[Answer], classes: Sequence[str] = ()) -> int:
    """How many answers are none: no box, an empty text, or a class outside `classes` when those are given."""
    if family is BOX_CLASSIFICATION and classes:
        known = {name.lower() for name in classes}
        return sum(str(a).lower() not in known for a in answers)
    return sum(a is None or (isinstance(a, str) and not a.strip()) for a in answers)


def score_answers(family: Family, *, rows: Sequence[Prediction], answers: Sequence[Answer]) -> Scores:
    """Every metric of the family for one answer per row.

    Raises:
      PredictionsError: a row lacks what its family is scored against.
    """
    _check_targets(family, rows)
    texts = ["" if a is None else str(a) for a in answers]
    match = np.array([exact_match(t, targets=r.targets) for t, r in zip(texts, rows, strict=True)])
    if family is VQA:
        score = np.array([_vqa(t, row) for t, row in zip(texts, rows, strict=True)])
        return Scores({"exact_match": match, "score": score})
    if family is BOX_CLASSIFICATION:
        return Scores({"exact_match": match})
    if family is CAPTION:
        return _caption_scores(match, rows=rows, texts=texts)
    # Answers of this family are boxes, and a row without a true one was refused above.
    boxes = cast(Sequence[Sequence[float] | None], answers)
    truths = cast(Sequence[Sequence[float]], [row.true_box for row in rows])
    pairs = [refexp_scores(box, true=true) for box, true in zip(boxes, truths, strict=True)]
    return Scores({name: np.array([p[name] for p in pairs]) for name in REFEXP.metrics})


def _vqa(text: str, row: Prediction) -> float:
    # One target is one truth, several are annotators who must agree (`min(count / 3, 1)`).
    return vqa_score(text, targets=row.targets[0] if len(row.targets) == 1 else row.targets)


def _caption_scores(match: np.ndarray, *, rows: Sequence[Prediction], texts: Sequence[str]) -> Scores:
    references = [[captions.tokenise(t) for t in row.targets] for row in rows]
    candidates = [captions.tokenise(t) for t in texts]
    index = captions.CiderIndex(references)
    pairs = list(zip(candidates, references, strict=True))
    counts = np.stack([captions.bleu_counts(c, references=r) for c, r in pairs])
    return Scores(
        {
            "exact_match": match,
            "cider": np.array([index.score(c, references=r) for c, r in pairs]),
            "rouge_l": np.array([captions.rouge_l(c, references=r) for c, r in pairs]),
        },
        {"bleu_4": (counts, captions.bleu)},
    )


def _check_targets(family: Family, rows: Sequence[Prediction]) -> None:
    for row in rows:
        if family is REFEXP and row.true_box is None:
            raise PredictionsError(f"task {row.task!r}, example {row.example_id!r}: true_box is null, expected a box")
        if family is not REFEXP and not row.targets:
            raise PredictionsError(f"task {row.task!r}, example {row.example_id!r}: targets is empty")
