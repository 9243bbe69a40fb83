"""How well a predicted box fits: overlap in pixels of the source image.

How a box is written as location tokens, and undone from the model's canvas, is `uio2.tasks.locations`; reading
divides by 1000 where writing multiplies by 999, so a perfect prediction falls short by up to 0.1% of the side (the
original's convention, kept so that published numbers can be compared).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from uio2.tasks.locations import parse_boxes, undo_box
from uio2.tasks.metrics.result import (
    DEFAULT_RESAMPLING,
    Id,
    MetricError,
    Resampling,
    Result,
    mean_result,
    paired,
)

METRIC = "refexp"
IMAGE_INFO_LENGTH = 11


def first_box(text: str, *, image_info: Sequence[float], input_size: Sequence[int]) -> list[float] | None:
    """The first predicted box in source pixels `[y1, x1, y2, x2]`, or None when the text holds none.

    Args:
      text: the model's output.
      image_info: the 11 numbers that say how the source image was placed on the canvas.
      input_size: (height, width) of the canvas in pixels.

    Raises:
      ValueError: `image_info` has another length, or tells of a crop, which cannot be undone.
    """
    if len(image_info) != IMAGE_INFO_LENGTH:
        raise ValueError(
            f"image_info has {len(image_info)} numbers, expected {IMAGE_INFO_LENGTH}: {list(image_info)!r}"
        )
    height, width = input_size
    boxes = parse_boxes(text, size=(height, width))
    return undo_box(boxes[0], image_info=image_info) if boxes else None


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over (union + 1e-6); a box with no area, or inverted, overlaps nothing."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    overlap = height * width
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return float(overlap / (union + 1e-6))


def refexp_scores(predicted: Sequence[float] | None, *, true: Sequence[float]) -> dict[str, float]:
    """`{"acc", "iou"}` of one referring expression; acc asks for IoU > 0.5, no box scores 0."""
    iou = 0.0 if predicted is None else box_iou(predicted, true)
    return {"acc": float(iou > 0.5), "iou": iou}


def check_box(box: Sequence[float], *, metric: str, example: Id, side: str) -> None:
    """Refuses a box that is not four finite numbers, and a true one (`side` is "reference") without area."""
    if len(box) != 4 or not all(math.isfinite(v) for v in box):
        raise MetricError(metric, example, f"{side} box is {list(box)!r}, expected four finite numbers")
    if side == "reference" and (box[2] <= box[0] or box[3] <= box[1]):
        raise MetricError(metric, example, f"reference box {list(box)!r} has no area, expected [y1, x1, y2, x2]")


def refexp_results(
    predictions: Mapping[Id, Sequence[float] | None],
    *,
    references: Mapping[Id, Sequence[float]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`acc` (share of IoU > 0.5) and `iou` of one predicted box per expression; None, no box, scores 0.

    Raises:
      MetricError: a true box without area, or a box that is not four finite numbers.
    """
    pairs = paired(predictions, references=references, metric=METRIC)
    for pair in pairs:
        check_box(pair.reference, metric=METRIC, example=pair.id, side="reference")
        if pair.prediction is not None:
            check_box(pair.prediction, metric=METRIC, example=pair.id, side="predicted")
    scores = [refexp_scores(p.prediction, true=p.reference) for p in pairs]
    ids = [p.id for p in pairs]
    return {
        figure: mean_result(f"{METRIC}/{figure}", ids=ids, scores=[s[figure] for s in scores], resampling=resampling)
        for figure in ("acc", "iou")
    }
