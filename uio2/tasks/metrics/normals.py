"""Surface normals painted as RGB: share of pixels within an angle of the truth, and the mean angle in degrees.

GRIT scores the share within 11.25 degrees (Gupta et al. 2022). A set whose camera convention is unknown may be fitted
first: one rotation per image, the least-squares one over its valid pixels (Kabsch 1976).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Real

from uio2.tasks.metrics.result import (
    DEFAULT_RESAMPLING,
    Id,
    MetricError,
    Resampling,
    Result,
    mean_result,
    paired,
)

METRIC = "normals"
THRESHOLDS = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}
# The colour of no direction. Not 127.5: the golden figures of the original are met to 1e-11 with this one only.
_ZERO = 122.5
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class NormalMap:
    """True normals of an image.

    Attributes:
      rgb: [h, w, 3] 0..255.
      valid: [h, w] where the truth is known.
    """

    rgb: Real[np.ndarray, "h w 3"]
    valid: Bool[np.ndarray, "h w"]


def directions(rgb: Real[np.ndarray, "*s 3"]) -> Float[np.ndarray, "*s 3"]:
    """Unit vectors of colours."""
    vectors = np.asarray(rgb, np.float64) - _ZERO
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY)


def _fitted(predicted: Float[np.ndarray, "n 3"], *, true: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """The predictions turned by the one rotation that brings them closest to the truth."""
    u, _, vt = np.linalg.svd(predicted.T @ true)
    # A reflection would fit better still where it may not: the last axis is flipped back.
    proper = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return predicted @ (u @ proper @ vt)


def normal_angles(
    predicted: Real[np.ndarray, "h w 3"], *, true: NormalMap, rotate: bool = False
) -> Float[np.ndarray, " n"]:
    """Angles in degrees at the valid pixels, after the fit of one rotation with `rotate`."""
    own, other = directions(predicted[true.valid]), directions(true.rgb[true.valid])
    if rotate:
        own = _fitted(own, true=other)
    return np.degrees(np.arccos(np.clip((own * other).sum(axis=-1), -1, 1)))


def _check(predicted: np.ndarray, true: NormalMap, *, example: Id) -> None:
    if np.shape(predicted) != np.shape(true.rgb):
        raise MetricError(METRIC, example, f"prediction has shape {np.shape(predicted)}, expected {true.rgb.shape}")
    if np.shape(true.valid) != np.shape(true.rgb)[:2]:
        raise MetricError(METRIC, example, f"valid has shape {true.valid.shape}, expected {true.rgb.shape[:2]}")
    if not true.valid.any():
        raise MetricError(METRIC, example, "the truth is known at no pixel; leave it out")
    if not np.isfinite(predicted[true.valid]).all() or not np.isfinite(true.rgb[true.valid]).all():
        raise MetricError(METRIC, example, "a valid pixel is NaN or infinite")


def normal_results(
    predictions: Mapping[Id, Real[np.ndarray, "h w 3"]],
    *,
    references: Mapping[Id, NormalMap],
    rotate: bool = False,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`within_11` (GRIT's score), `within_22`, `within_30` and `mean_angle`, each a mean over images.

    Raises:
      MetricError: another size, no valid pixel, NaN at a valid pixel.
    """
    pairs = paired(predictions, references=references, metric=METRIC)
    scores: dict[str, list[float]] = {figure: [] for figure in (*THRESHOLDS, "mean_angle")}
    for pair in pairs:
        predicted, true = pair.prediction, pair.reference
        _check(predicted, true, example=pair.id)
        angles = normal_angles(predicted, true=true, rotate=rotate)
        for figure, limit in THRESHOLDS.items():
            scores[figure].append(float((angles < limit).mean()))
        scores["mean_angle"].append(float(angles.mean()))
    ids = [p.id for p in pairs]
    return {
        figure: mean_result(f"{METRIC}/{figure}", ids=ids, scores=values, resampling=resampling)
        for figure, values in scores.items()
    }
