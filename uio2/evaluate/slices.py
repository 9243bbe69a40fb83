"""Figures of parts of a task's examples: by kind of question, size of box, size of picture, length of answer, ...

    metrics.json   "slices": {task: {kind: [{"slice", "n", "metrics": {metric: {value, low, high}}}]}}

A figure that is a mean over examples is the mean of what the examples scored in the whole set, so that the slices of a
kind, weighed by their sizes, give the whole. A figure of sums (word error rate, BLEU) is that of the slice's own sums.
Figures that rank a whole set (average precision) have no slices: what an example adds depends on the others. Which
kinds a task has, its way of scoring says (`Family.slices`), and a kind of which all examples are in one slice is left
out.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from uio2.evaluate.predictions import Prediction
from uio2.pipeline.stage import StageError
from uio2.tasks.metrics.result import Resampling, Result, part

NONE, OTHER = "(none)", "(other)"
# Areas in source pixels, as COCO parts its objects.
_SMALL, _MEDIUM = 32.0**2, 96.0**2
_YES_NO = ("yes", "no")


def _question_kind(row: Prediction) -> str:
    return " ".join(row.question.lower().split()[:2])


def _question_length(row: Prediction) -> str:
    return _words(len(row.question.split()), (3, 6, 10))


def _answer_kind(row: Prediction) -> str:
    """As the VQA challenge tells them apart: yes/no, number, other."""
    answer = _majority(row).lower().strip()
    return "yes or no" if answer in _YES_NO else "number" if answer.isdecimal() else "other"


def _answer_length(row: Prediction) -> str:
    return _words(len(_majority(row).split()), (1, 3, 8, 16))


def _answer(row: Prediction) -> str:
    return _majority(row).lower()


def _box_size(row: Prediction) -> str:
    if row.true_box is None:
        return ""
    y1, x1, y2, x2 = row.true_box
    return _area((y2 - y1) * (x2 - x1))


def _image_size(row: Prediction) -> str:
    if len(row.image_info) < 5 or not row.image_info[3]:
        return ""
    longest = max(row.image_info[3:5])
    for limit in (128, 256, 512, 1024):
        if longest <= limit:
            return f"up to {limit} px"
    return "above 1024 px"


def _objects(row: Prediction) -> str:
    boxes = row.truth.get("boxes")
    return "" if boxes is None else _range(len(boxes), (0, 1, 3, 7), "objects")


def _mask_size(row: Prediction) -> str:
    areas = row.truth.get("areas")
    return _area(float(areas[0])) if areas else _box_size(row)


def _area(area: float) -> str:
    return "small" if area < _SMALL else "medium" if area < _MEDIUM else "large"


def _words(count: int, limits: Sequence[int]) -> str:
    return _range(count, limits, "words")


def _range(count: int, limits: Sequence[int], of: str) -> str:
    low = 0
    for limit in limits:
        if count <= limit:
            return f"{low} to {limit} {of}" if limit > low else f"{limit} {of if limit != 1 else of[:-1]}"
        low = limit + 1
    return f"{low} or more {of}"


def _majority(row: Prediction) -> str:
    counts = Counter(row.targets)
    return min(counts, key=lambda text: (-counts[text], text)) if counts else ""


# What a kind is called on the page, and the slice of a row ("" where it has none).
KINDS: Mapping[str, tuple[str, Callable[[Prediction], str]]] = {
    "question_kind": ("kind of question, its first two words", _question_kind),
    "question_length": ("length of what is asked", _question_length),
    "answer_kind": ("kind of answer", _answer_kind),
    "answer_length": ("length of the true answer", _answer_length),
    "answer": ("true answer", _answer),
    "box_size": ("size of the box, as COCO's objects", _box_size),
    "mask_size": ("size of the object, as COCO's", _mask_size),
    "image_size": ("longest side of the picture", _image_size),
    "objects": ("number of true objects", _objects),
}


@dataclasses.dataclass(frozen=True)
class Labels:
    """The slices of a set of rows: kind -> the slice of each row."""

    by_kind: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, rows: Sequence[Prediction], *, kinds: Sequence[str]) -> Labels:
        """Those of the kinds."""
        return cls({kind: [KINDS[kind][1](row) or NONE for row in rows] for kind in kinds})


def check_slices(kinds: Sequence[str] | None) -> None:
    """Raises StageError if one is no kind of slices."""
    unknown = sorted(set(kinds or ()) - KINDS.keys())
    if unknown:
        raise StageError(f"ScoreSpec.slices names {', '.join(unknown)}; expected some of {', '.join(KINDS)}")


def chosen_kinds(own: Sequence[str], *, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The kinds of a way of scoring, or those of them that are asked for."""
    return tuple(kind for kind in own if asked is None or kind in asked)


def sliced(
    results: Mapping[str, Result], labels: Labels, *, resampling: Resampling, most: int, decimals: int
) -> dict[str, list[dict[str, Any]]]:
    """Figures of the slices, those with most examples first.

    Args:
      results: figures of the whole set; those that cannot be sliced are passed over.
      labels: of its examples, in their order.
      resampling: of the intervals.
      most: slices of a kind; the rarer ones share one.
      decimals: of the figures.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, names in labels.by_kind.items():
        counts = Counter(names)
        kept = sorted(counts, key=lambda name: (-counts[name], name))[:most]
        folded = np.array([name if name in kept else OTHER for name in names])
        order = [*kept, *([OTHER] if len(counts) > len(kept) else [])]
        if len(order) > 1:
            slices = [_slice(results, name, folded == name, resampling, decimals) for name in order]
            found[kind] = [entry for entry in slices if entry["metrics"]]
    return {kind: entries for kind, entries in found.items() if entries}


def _slice(
    results: Mapping[str, Result], name: str, chosen: np.ndarray, resampling: Resampling, decimals: int
) -> dict[str, Any]:
    metrics = {}
    for metric, result in results.items():
        found = part(result, np.flatnonzero(chosen), resampling=resampling)
        if found is not None and np.isfinite(found.value):
            interval = found.interval
            metrics[metric] = {side: round(getattr(interval, side), decimals) for side in ("value", "low", "high")}
    return {"slice": name, "n": int(chosen.sum()), "metrics": metrics}
