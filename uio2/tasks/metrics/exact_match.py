"""Case-insensitive exact match, and classification by it; nothing else is forgiven, a trailing blank counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from uio2.tasks.metrics.result import (
    DEFAULT_RESAMPLING,
    Id,
    Resampling,
    Result,
    check_references,
    mean_result,
    paired,
    sums_result,
)


def exact_match(prediction: str, *, targets: str | Sequence[str]) -> float:
    """1.0 when the prediction equals the target, or any of several, ignoring case."""
    options = [targets] if isinstance(targets, str) else targets
    return float(prediction.lower() in {option.lower() for option in options})


def exact_match_results(
    predictions: Mapping[Id, str],
    *,
    references: Mapping[Id, Sequence[str]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`exact_match` against any of an example's targets; an empty prediction matches an empty target alone.

    Raises:
      MetricError: an example without targets.
    """
    metric = "exact_match"
    pairs = paired(predictions, references=references, metric=metric)
    check_references(pairs, metric=metric)
    scores = [exact_match(p.prediction, targets=p.reference) for p in pairs]
    ids = [p.id for p in pairs]
    return {metric: mean_result(f"{metric}/{metric}", ids=ids, scores=scores, resampling=resampling)}


def _balanced(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
    """Mean over classes of the share that is right; sums are right per class, then examples per class."""
    right, examples = np.split(sums, 2, axis=1)
    present = examples > 0
    return (right / np.maximum(examples, 1)).sum(axis=1) / present.sum(axis=1)


def classification_results(
    predictions: Mapping[Id, str], *, references: Mapping[Id, str], resampling: Resampling = DEFAULT_RESAMPLING
) -> dict[str, Result]:
    """`accuracy`, and `balanced_accuracy`: the mean over true classes, of those drawn in a resample.

    A prediction that is no class at all (an empty text) is wrong.
    """
    metric = "classification"
    pairs = paired(predictions, references=references, metric=metric)
    ids = [p.id for p in pairs]
    right = np.array([exact_match(p.prediction, targets=p.reference) for p in pairs])
    classes = {name: i for i, name in enumerate(sorted({p.reference.lower() for p in pairs}))}
    member = np.zeros((len(pairs), len(classes)))
    member[np.arange(len(pairs)), [classes[p.reference.lower()] for p in pairs]] = 1
    sums = np.concatenate([member * right[:, None], member], axis=1)
    return {
        "accuracy": mean_result(f"{metric}/accuracy", ids=ids, scores=right, resampling=resampling),
        "balanced_accuracy": sums_result(
            f"{metric}/balanced_accuracy", ids=ids, sums=sums, statistic=_balanced, resampling=resampling
        ),
    }
