"""Tagging with many labels: mean average precision over classes, as AudioSet is scored (Gemmeke et al. 2017).

Average precision of a class is the sum over its distinct scores of (recall gained x precision there), without
interpolation; examples of equal score enter together. Classes that no example has are left out of the mean. An example
drawn twice is one place in the ranking, which lifts the interval a little where a class is guessed at chance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from uio2.tasks.metrics.result import DEFAULT_RESAMPLING, Id, MetricError, Resampling, Result, counts_results, paired

METRIC = "tagging"


@dataclasses.dataclass(frozen=True)
class _Ranking:
    """The examples by falling score for one class.

    Attributes:
      order: [n] example indices.
      positive: [p] places in `order` of the examples that have the class.
      last: [p] place of the last example with the same score as each positive.
    """

    order: Int[np.ndarray, " n"]
    positive: Int[np.ndarray, " p"]
    last: Int[np.ndarray, " p"]


def _ranking(scores: Float[np.ndarray, " n"], *, has: Bool[np.ndarray, " n"]) -> _Ranking:
    order = np.argsort(-scores, kind="stable")
    falling = -scores[order]
    positive = np.flatnonzero(has[order])
    return _Ranking(order, positive, np.searchsorted(falling, falling[positive], side="right") - 1)


def _average_precision(ranking: _Ranking, counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    """AP of every resample; NaN where no positive was drawn."""
    weights = counts[:, ranking.order]
    own = weights[:, ranking.positive]
    # The count of positives up to a place: up to the last positive that shares the score.
    found = np.cumsum(own, axis=1)[:, np.searchsorted(ranking.positive, ranking.last, side="right") - 1]
    retrieved = np.cumsum(weights, axis=1)[:, ranking.last]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(retrieved > 0, found / retrieved, 0.0)
        return (own * precision).sum(axis=1) / own.sum(axis=1)


def average_precision(scores: Float[np.ndarray, " n"], *, has: Bool[np.ndarray, " n"]) -> float:
    """AP of one class; NaN when no example has it."""
    ranking = _ranking(np.asarray(scores, np.float64), has=np.asarray(has, bool))
    return float(_average_precision(ranking, np.ones((1, len(scores))))[0])


def tagging_results(
    predictions: Mapping[Id, Float[np.ndarray, " c"]],
    *,
    references: Mapping[Id, Bool[np.ndarray, " c"]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`map`, the mean over classes of average precision.

    Args:
      predictions: a score per class and example, any scale, higher is likelier.
      references: which classes each example has.

    Raises:
      MetricError: another number of classes, a score that is NaN or infinite.
      ValueError: no example has any class.
    """
    pairs = paired(predictions, references=references, metric=METRIC)
    classes = len(pairs[0].reference)
    for pair in pairs:
        for side, values in (("prediction", pair.prediction), ("reference", pair.reference)):
            if np.shape(values) != (classes,):
                raise MetricError(METRIC, pair.id, f"{side} has shape {np.shape(values)}, expected ({classes},)")
        if not np.isfinite(pair.prediction).all():
            raise MetricError(METRIC, pair.id, "a score is NaN or infinite")
    scores = np.array([p.prediction for p in pairs], np.float64)
    has = np.array([p.reference for p in pairs], bool)
    rankings = [_ranking(scores[:, c], has=has[:, c]) for c in np.flatnonzero(has.any(axis=0))]
    if not rankings:
        raise ValueError(f"{METRIC}: no example has any class, expected at least one that does")

    def statistic(counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r 1"]:
        # Class by class: all at once would hold r x n x classes numbers.
        total, defined = np.zeros(len(counts)), np.zeros(len(counts))
        for ranking in rankings:
            value = _average_precision(ranking, counts)
            total += np.nan_to_num(value)
            defined += ~np.isnan(value)
        with np.errstate(invalid="ignore"):
            return (total / defined)[:, None]

    ids = [p.id for p in pairs]
    return counts_results(METRIC, figures=["map"], ids=ids, statistic=statistic, width=len(ids), resampling=resampling)
