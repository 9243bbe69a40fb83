"""Monocular depth: absolute relative error and root mean squared error in metres (Eigen et al. 2014, section 4.2).

A pixel counts where the truth is a finite number above 0; sensors write 0 or NaN where they measured nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from uio2.tasks.metrics.result import (
    DEFAULT_RESAMPLING,
    Id,
    MetricError,
    Resampling,
    Result,
    mean_result,
    paired,
    sums_result,
)

METRIC = "depth"


def _root_mean(sums: Float[np.ndarray, "r 2"]) -> Float[np.ndarray, " r"]:
    return np.sqrt(sums[:, 0] / sums[:, 1])


def _measured(
    predicted: Float[np.ndarray, "h w"], true: Float[np.ndarray, "h w"], *, example: Id
) -> tuple[np.ndarray, np.ndarray]:
    """Both depths at the pixels that were measured, [m] each."""
    if predicted.shape != true.shape:
        raise MetricError(METRIC, example, f"prediction has shape {predicted.shape}, expected {true.shape}")
    valid = np.isfinite(true) & (true > 0)
    if not valid.any():
        raise MetricError(METRIC, example, "the truth measured no pixel (all 0, NaN or infinite); leave it out")
    bad = int((~np.isfinite(predicted[valid])).sum())
    if bad:
        raise MetricError(METRIC, example, f"prediction is NaN or infinite at {bad} measured pixels")
    return predicted[valid], true[valid]


def depth_results(
    predictions: Mapping[Id, Float[np.ndarray, "h w"]],
    *,
    references: Mapping[Id, Float[np.ndarray, "h w"]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`abs_rel` and `rmse`, means over images; `rmse_pixels`, the root over all pixels of all images.

    Papers differ in which of the two RMSE they print; a set with one bad image tells them apart.

    Args:
      predictions: depth maps in metres.
      references: true depth maps in metres, of the same sizes.

    Raises:
      MetricError: another size, nothing measured, or a prediction that is not finite where the truth was measured.
    """
    pairs = paired(predictions, references=references, metric=METRIC)
    ids = [p.id for p in pairs]
    relative, squares = [], []
    for pair in pairs:
        predicted, true = _measured(
            np.asarray(pair.prediction, np.float64), np.asarray(pair.reference, np.float64), example=pair.id
        )
        relative.append(float((np.abs(predicted - true) / true).mean()))
        squares.append([float(((predicted - true) ** 2).sum()), len(true)])
    sums = np.array(squares, np.float64)
    return {
        "abs_rel": mean_result(f"{METRIC}/abs_rel", ids=ids, scores=relative, resampling=resampling),
        "rmse": mean_result(f"{METRIC}/rmse", ids=ids, scores=_root_mean(sums), resampling=resampling),
        "rmse_pixels": sums_result(
            f"{METRIC}/rmse_pixels", ids=ids, sums=sums, statistic=_root_mean, resampling=resampling
        ),
    }
