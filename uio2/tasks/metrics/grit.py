"""The GRIT benchmark's scores of localisation, person keypoints and segmentation (Gupta et al. 2022, appendix).

All three pair predictions with truths one to one so that the summed similarity is largest (Hungarian method) and
score an image by that sum over (predictions + truths left without a pair): extra and missing instances cost alike.
Similarity is IoU of boxes, object keypoint similarity, or IoU of masks: of their boundaries, as the paper and the
original Unified-IO 2 score, or whole, as the recorded figures of GRIT's own functions turn out to be.

GRIT's VQA, referring expression and categorisation scores are `vqa_score`, `refexp_scores` and `exact_match`; its
normals are in `normals`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from uio2.tasks.metrics.boxes import box_iou, check_box
from uio2.tasks.metrics.result import (
    DEFAULT_RESAMPLING,
    Id,
    MetricError,
    Resampling,
    Result,
    mean_result,
    paired,
)

Box = Sequence[float]
Mask = Bool[np.ndarray, "h w"]

KEYPOINTS = 17
# Tolerance of each COCO keypoint relative to the person's size; a person is area^0.5 pixels large.
KEYPOINT_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], np.float64) / 1000
# A boundary is a band inside the mask, this share of the image's diagonal wide.
_BAND = 0.02
_TINY = 1e-12


def paired_score(similarity: Float[np.ndarray, "p t"]) -> float:
    """Summed similarity of the best pairs over (predictions + truths without a pair); 1 when both sides are empty."""
    from scipy.optimize import linear_sum_assignment

    predictions, truths = similarity.shape
    if not predictions and not truths:
        return 1.0
    best = similarity[linear_sum_assignment(similarity, maximize=True)]
    matched = int((best > 0).sum())
    return float(best.sum() / (predictions + truths - matched))


def _table(predicted: Sequence, true: Sequence, similarity: Callable) -> Float[np.ndarray, "p t"]:
    values = [[similarity(p, t) for t in true] for p in predicted]
    return np.array(values, np.float64).reshape(len(predicted), len(true))


def localization_score(predicted: Sequence[Box], *, true: Sequence[Box]) -> float:
    """One image's score; both lists of boxes have the same order of coordinates, of either kind."""
    return paired_score(_table(predicted, true, box_iou))


def keypoint_similarity(predicted: Float[np.ndarray, "17 3"], true: Float[np.ndarray, "17 3"]) -> float:
    """Object keypoint similarity of rows (x, y, visibility) over the true visible points.

    The person's area is that of the box around its visible points, not of its mask as in COCO.
    """
    visible = true[:, 2] > 0
    points = true[visible, :2]
    area = float(np.prod(np.ptp(points, axis=0)))
    squares = ((predicted[visible, :2] - points) ** 2).sum(axis=1)
    return float(np.exp(-squares / (2 * (2 * KEYPOINT_SIGMAS[visible]) ** 2 * (area + _TINY))).mean())


def keypoint_score(predicted: Sequence[np.ndarray], *, true: Sequence[np.ndarray]) -> float:
    """One image's score; each person is [17, 3]: x, y, visibility, of COCO's parts in COCO's order."""
    return paired_score(_table(predicted, true, keypoint_similarity))


def boundary(mask: Mask) -> Mask:
    """The band of the mask's pixels within 2% of the image's diagonal from its edge; the image's edge counts too."""
    from scipy.ndimage import binary_erosion

    width = max(1, round(_BAND * float(np.hypot(*mask.shape))))
    # Values beyond the image are 0, so a mask that is cut off by the image has a boundary there.
    return mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)


def mask_iou(a: Mask, b: Mask) -> float:
    """Pixels of both over (pixels of either + 1e-6)."""
    return float((a & b).sum() / ((a | b).sum() + 1e-6))


def segmentation_score(predicted: Sequence[Mask], *, true: Sequence[Mask], stuff: bool = False) -> float:
    """One image's score by mask boundaries; `stuff` (sky, grass) has no instances: each side's masks are joined."""
    own, other = _instances(predicted, stuff=stuff), _instances(true, stuff=stuff)
    return paired_score(_table([boundary(m) for m in own], [boundary(m) for m in other], mask_iou))


def segmentation_mask_score(predicted: Sequence[Mask], *, true: Sequence[Mask], stuff: bool = False) -> float:
    """One image's score by whole masks; arguments as `segmentation_score`."""
    return paired_score(_table(_instances(predicted, stuff=stuff), _instances(true, stuff=stuff), mask_iou))


def _instances(masks: Sequence[Mask], *, stuff: bool) -> list[Mask]:
    return [np.any(masks, axis=0)] if stuff and len(masks) else list(masks)


def localization_results(
    predictions: Mapping[Id, Sequence[Box]],
    *,
    references: Mapping[Id, Sequence[Box]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`localization`: mean over images. No predicted box scores 0, or 1 where there is none to find.

    Raises:
      MetricError: a true box without area, or a box that is not four finite numbers.
    """
    metric = "localization"
    pairs = paired(predictions, references=references, metric=metric)
    for pair in pairs:
        for side, boxes in (("reference", pair.reference), ("predicted", pair.prediction)):
            for box in boxes:
                check_box(box, metric=metric, example=pair.id, side=side)
    scores = [localization_score(p.prediction, true=p.reference) for p in pairs]
    return _mean(metric, [p.id for p in pairs], scores, resampling)


def keypoint_results(
    predictions: Mapping[Id, Sequence[np.ndarray]],
    *,
    references: Mapping[Id, Sequence[np.ndarray]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`keypoint`: mean over images. A person is 51 numbers or [17, 3]; only the truth's visibility matters.

    Raises:
      MetricError: a person of another shape, NaN, or a true person without a visible point.
    """
    metric = "keypoint"
    pairs = paired(predictions, references=references, metric=metric)
    scores = []
    for pair in pairs:
        predicted, true = (
            [_person(person, metric=metric, example=pair.id) for person in side]
            for side in (pair.prediction, pair.reference)
        )
        if any(not (person[:, 2] > 0).any() for person in true):
            raise MetricError(metric, pair.id, "a true person has no visible point; leave it out")
        scores.append(keypoint_score(predicted, true=true))
    return _mean(metric, [p.id for p in pairs], scores, resampling)


def segmentation_results(
    predictions: Mapping[Id, Sequence[Mask]],
    *,
    references: Mapping[Id, Sequence[Mask]],
    stuff: frozenset[Id] = frozenset(),
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`segmentation` (boundaries) and `segmentation_mask`: means over images.

    `stuff` are the ids whose query has no instances.

    Raises:
      MetricError: masks of one example differ in size, or are not two-dimensional.
    """
    metric = "segmentation"
    pairs = paired(predictions, references=references, metric=metric)
    scores, whole = [], []
    for pair in pairs:
        predicted, true = ([np.asarray(m, bool) for m in side] for side in (pair.prediction, pair.reference))
        sizes = {m.shape for m in (*true, *predicted)}
        if len(sizes) > 1 or any(len(size) != 2 for size in sizes):
            raise MetricError(metric, pair.id, f"masks have sizes {sorted(sizes)}, expected one (height, width)")
        scores.append(segmentation_score(predicted, true=true, stuff=pair.id in stuff))
        whole.append(segmentation_mask_score(predicted, true=true, stuff=pair.id in stuff))
    ids = [p.id for p in pairs]
    return _mean(metric, ids, scores, resampling) | _mean("segmentation_mask", ids, whole, resampling)


def _person(values: np.ndarray, *, metric: str, example: Id) -> Float[np.ndarray, "17 3"]:
    person = np.asarray(values, np.float64)
    if person.size != KEYPOINTS * 3:
        raise MetricError(metric, example, f"a person has {person.size} numbers, expected {KEYPOINTS * 3}")
    if not np.isfinite(person).all():
        raise MetricError(metric, example, "a person has a NaN or infinite coordinate")
    return person.reshape(KEYPOINTS, 3)


def _mean(metric: str, ids: list[Id], scores: list[float], resampling: Resampling) -> dict[str, Result]:
    return {metric: mean_result(f"{metric}/{metric}", ids=ids, scores=scores, resampling=resampling)}
