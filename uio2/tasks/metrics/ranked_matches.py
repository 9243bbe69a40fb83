"""COCO's average precision and recall of weighted images, from the matches `pycocotools` made.

What one image contributes (which detection matched, which are ignored, how many truths count) does not depend on the
other images; only the ranking by score joins them. With a weight per image the running sums over the ranking give
the figures of a resample, without matching anything again. An image taken twice is an image of weight 2: the points
of the curve it leaves out lie below the ones it keeps, so the interpolated precision is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

_RECALLS = 101  # precision is read at recall 0, 0.01, .. 1


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the COCO table.

    Attributes:
      name: key of the result.
      average: "precision" or "recall".
      area: label of the size range.
      limit: detections per image and class that count.
      threshold: index of the IoU threshold, None averages over all ten.
    """

    name: str
    average: str
    area: str
    limit: int
    threshold: int | None = None


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The detections of one class in one size range, by falling score.

    Attributes:
      image: [d] index of the image.
      rank: [d] place among the image's detections of the class.
      right: [t, d] matched to a truth that counts, at each IoU threshold.
      counted: [t, d] right or wrong, not ignored.
      truths: [n] truths that count, per image.
    """

    image: Int[np.ndarray, " d"]
    rank: Int[np.ndarray, " d"]
    right: Bool[np.ndarray, "t d"]
    counted: Bool[np.ndarray, "t d"]
    truths: Float[np.ndarray, " n"]

    def precision(self, counts: Float[np.ndarray, "r n"], *, threshold: int) -> Float[np.ndarray, " r"]:
        """Average interpolated precision of every resample; NaN where no truth was drawn."""
        places = np.flatnonzero(self.right[threshold])
        weights = counts[:, self.image]
        found = np.cumsum(weights[:, places], axis=1)
        seen = np.cumsum(weights * self.counted[threshold], axis=1)[:, places]
        precision = found / (seen + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total = counts @ self.truths
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = found / total[:, None]
        reached = np.searchsorted(np.linspace(0, 1, _RECALLS), recall, side="right")
        gained = np.diff(reached, axis=1, prepend=0)
        return np.where(total > 0, (best * gained).sum(axis=1) / _RECALLS, np.nan)

    def recall(self, counts: Float[np.ndarray, "r n"], *, threshold: int, limit: int) -> Float[np.ndarray, " r"]:
        """Recall of every resample with at most `limit` detections per image; NaN where no truth was drawn."""
        places = np.flatnonzero(self.right[threshold] & (self.rank < limit))
        total = counts @ self.truths
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, counts[:, self.image[places]].sum(axis=1) / total, np.nan)


@dataclasses.dataclass(frozen=True)
class RankedMatches:
    """All rankings of an evaluation: size range -> one per class that has truths."""

    rankings: dict[str, list[Ranking]]
    thresholds: int

    @property
    def width(self) -> int:
        """Cells that one resample takes: the longest ranking."""
        return max((len(r.image) for group in self.rankings.values() for r in group), default=0)

    def figures(self, counts: Float[np.ndarray, "r n"], *, wanted: Sequence[Figure]) -> list[Float[np.ndarray, " r"]]:
        """Each figure of every resample: the mean over thresholds and classes that have truths in it."""
        known: dict[tuple[str, str, int, int], np.ndarray] = {}
        return [self._figure(counts, figure, known) for figure in wanted]

    def _figure(
        self,
        counts: Float[np.ndarray, "r n"],
        figure: Figure,
        known: dict[tuple[str, str, int, int], np.ndarray],
    ) -> Float[np.ndarray, " r"]:
        thresholds = range(self.thresholds) if figure.threshold is None else [figure.threshold]
        values = []
        for threshold in thresholds:
            limit = figure.limit if figure.average == "recall" else 0
            key = (figure.average, figure.area, threshold, limit)
            # AP50 and AP75 are among the ten thresholds of AP.
            if key not in known:
                known[key] = self._classes_mean(counts, figure, threshold)
            values.append(known[key])
        return np.mean(values, axis=0)

    def _classes_mean(
        self, counts: Float[np.ndarray, "r n"], figure: Figure, threshold: int
    ) -> Float[np.ndarray, " r"]:
        total, defined = np.zeros(len(counts)), np.zeros(len(counts))
        for ranking in self.rankings[figure.area]:
            if figure.average == "precision":
                value = ranking.precision(counts, threshold=threshold)
            else:
                value = ranking.recall(counts, threshold=threshold, limit=figure.limit)
            total += np.nan_to_num(value)
            defined += ~np.isnan(value)
        with np.errstate(invalid="ignore"):
            return total / defined


def figures_of(evaluation: Any) -> list[Figure]:
    """The figures of `evaluation.stats`, in its order."""
    limits = evaluation.params.maxDets
    if evaluation.params.iouType == "keypoints":
        rows = [("", "all", None), ("50", "all", 0), ("75", "all", 5), ("_medium", "medium", None)]
        rows.append(("_large", "large", None))
        return [
            Figure(prefix + suffix, average, area, limits[0], threshold)
            for prefix, average in (("ap", "precision"), ("ar", "recall"))
            for suffix, area, threshold in rows
        ]
    sizes = ("small", "medium", "large")
    return [
        Figure("ap", "precision", "all", limits[-1]),
        Figure("ap50", "precision", "all", limits[-1], 0),
        Figure("ap75", "precision", "all", limits[-1], 5),
        *(Figure(f"ap_{size}", "precision", size, limits[-1]) for size in sizes),
        *(Figure(f"ar{limit}", "recall", "all", limit) for limit in limits),
        *(Figure(f"ar_{size}", "recall", size, limits[-1]) for size in sizes),
    ]


def rank_matches(evaluation: Any) -> RankedMatches:
    """Rankings from a `COCOeval` after `evaluate`; its list runs over classes, size ranges, then images."""
    params = evaluation.params
    images, areas = len(params.imgIds), params.areaRngLbl
    rankings: dict[str, list[Ranking]] = {label: [] for label in areas}
    for start in range(0, len(evaluation.evalImgs), images):
        label = areas[start // images % len(areas)]
        ranking = _ranking(evaluation.evalImgs[start : start + images], thresholds=len(params.iouThrs))
        if ranking is not None:
            rankings[label].append(ranking)
    return RankedMatches(rankings, len(params.iouThrs))


def _ranking(found: Sequence[dict[str, Any] | None], *, thresholds: int) -> Ranking | None:
    """One class in one size range; None where no truth counts."""
    truths = np.array([0.0 if e is None else float((np.asarray(e["gtIgnore"]) == 0).sum()) for e in found])
    if not truths.any():
        return None
    kept = [(i, e) for i, e in enumerate(found) if e is not None]
    scores = np.concatenate([np.asarray(e["dtScores"], np.float64) for _, e in kept])
    # The package sorts so too: images of equal scores keep their order.
    order = np.argsort(-scores, kind="mergesort")
    image = np.concatenate([np.full(len(e["dtScores"]), i) for i, e in kept])
    rank = np.concatenate([np.arange(len(e["dtScores"])) for _, e in kept])
    matched = np.concatenate([np.reshape(e["dtMatches"], (thresholds, -1)) > 0 for _, e in kept], axis=1)
    ignored = np.concatenate([np.reshape(e["dtIgnore"], (thresholds, -1)).astype(bool) for _, e in kept], axis=1)
    counted = ~ignored[:, order]
    return Ranking(image[order].astype(int), rank[order].astype(int), matched[:, order] & counted, counted, truths)
