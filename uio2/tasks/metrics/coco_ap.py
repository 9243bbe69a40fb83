"""Average precision of boxes, masks and keypoints as the COCO evaluation defines it, by its own package.

`pycocotools` matches detections to truths and gives the figures. It has no intervals, and running it a thousand times
would take hours; its matches per image do not change when images are drawn again, so every resample is one weighted
pass over the ranked matches (`uio2.tasks.metrics.ranked_matches`), equal to the package's on the full set.
Sources: Lin et al. 2014 and the COCO detection and keypoint evaluation pages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from uio2.tasks.metrics.boxes import check_box
from uio2.tasks.metrics.ranked_matches import figures_of, rank_matches
from uio2.tasks.metrics.result import (
    DEFAULT_RESAMPLING,
    Id,
    MetricError,
    Pair,
    Resampling,
    Result,
    counts_results,
    paired,
)

METRIC = "coco"


class Shape(enum.Enum):
    """What is compared; the value is the package's name for it."""

    BOX = "bbox"
    MASK = "segm"
    KEYPOINTS = "keypoints"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection:
    """A predicted object: its class, a confidence of any scale, and the shape that is scored (others are ignored).

    Attributes:
      box: y1, x1, y2, x2 in pixels; one without area is a false positive.
      mask: [h, w], or COCO's compressed run lengths `{"size", "counts"}`.
      keypoints: [17, 3] x, y, anything.
    """

    category: str | int
    score: float
    box: Sequence[float] | None = None
    mask: Bool[np.ndarray, "h w"] | Mapping[str, Any] | None = None
    keypoints: Float[np.ndarray, "k 3"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """An annotated object.

    Attributes:
      box, mask: as `Detection`; keypoints need a box too.
      keypoints: [17, 3] x, y, visibility (0 is not annotated).
      area: pixels, decides small, medium, large and the keypoints' tolerance; COCO annotations carry it. None takes
        the mask's, else the box's.
      crowd: a region of many objects, which detections may cover without being right or wrong.
    """

    category: str | int
    box: Sequence[float] | None = None
    mask: Bool[np.ndarray, "h w"] | Mapping[str, Any] | None = None
    keypoints: Float[np.ndarray, "k 3"] | None = None
    area: float | None = None
    crowd: bool = False


def coco_results(
    predictions: Mapping[Id, Sequence[Detection]],
    *,
    references: Mapping[Id, Sequence[Truth]],
    shape: Shape,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """The figures the COCO evaluation prints: `ap`, `ap50`, `ap75`, `ap_large`, `ar...`; images are resampled.

    A figure whose objects do not occur (no small ones, say) is left out. Detections of a class that no image has
    count for nothing, as in COCO.

    Raises:
      MetricError: a shape is missing, not finite, of another size; a true box without area.
      ValueError: no image has an object that counts.
    """
    metric = f"{METRIC}_{shape.name.lower()}"
    pairs = paired(predictions, references=references, metric=metric)
    truths, detections = _datasets(pairs, metric=metric, shape=shape)
    evaluation = _evaluate(truths, detections, shape=shape)
    matches = rank_matches(evaluation)
    found = [(f, float(v)) for f, v in zip(figures_of(evaluation), evaluation.stats, strict=True) if v >= 0]
    if not found:
        raise ValueError(f"{metric}: references hold no object that counts, expected at least one")
    figures = [figure for figure, _ in found]

    def statistic(counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r m"]:
        return np.stack(matches.figures(counts, wanted=figures), axis=1)

    results = counts_results(
        metric,
        figures=[figure.name for figure in figures],
        ids=[p.id for p in pairs],
        statistic=statistic,
        width=matches.width,
        resampling=resampling,
    )
    return {
        figure.name: dataclasses.replace(
            results[figure.name], interval=dataclasses.replace(results[figure.name].interval, value=value)
        )
        for figure, value in found
    }


def _evaluate(truths: dict[str, Any], detections: list[dict[str, Any]], *, shape: Shape) -> Any:
    """The package's evaluation, done and summed up; what it prints on the way is not shown."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truths
        reference.createIndex()
        answers = COCO()
        if detections:
            answers = reference.loadRes(detections)
        else:
            answers.dataset = truths | {"annotations": []}
            answers.createIndex()
        evaluation = COCOeval(reference, answers, shape.value)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _datasets(
    pairs: Sequence[Pair[Sequence[Detection], Sequence[Truth]]], *, metric: str, shape: Shape
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truths as a COCO data set and detections as a COCO results list; images and annotations count from 1."""
    names = {str(o.category) for p in pairs for o in p.reference} | {
        str(o.category) for p in pairs for o in p.prediction
    }
    categories = {name: i for i, name in enumerate(sorted(names), 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, pair in enumerate(pairs, 1):
        sizes: set[tuple[int, ...]] = set()
        for truth in pair.reference:
            entry = _shape_of(truth, metric=metric, example=pair.id, shape=shape, sizes=sizes)
            entry |= {"id": len(annotations) + 1, "image_id": image, "iscrowd": int(truth.crowd)}
            entry["area"] = _area(truth, entry) if truth.area is None else float(truth.area)
            annotations.append(entry | {"category_id": categories[str(truth.category)]})
        for detection in pair.prediction:
            if not math.isfinite(detection.score):
                raise MetricError(metric, pair.id, f"a detection's score is {detection.score!r}, expected a number")
            entry = _shape_of(detection, metric=metric, example=pair.id, shape=shape, sizes=sizes)
            entry |= {"image_id": image, "score": float(detection.score)}
            results.append(entry | {"category_id": categories[str(detection.category)]})
        if len(sizes) > 1:
            raise MetricError(metric, pair.id, f"masks have sizes {sorted(sizes)}, expected one (height, width)")
        height, width = sizes.pop() if sizes else (0, 0)
        images.append({"id": image, "height": height, "width": width})
    dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in categories.items()],
    }
    return dataset, results


def _shape_of(
    thing: Detection | Truth, *, metric: str, example: Id, shape: Shape, sizes: set[tuple[int, ...]]
) -> dict[str, Any]:
    """The scored shape of an object in COCO's fields; the size of a mask is added to `sizes`."""
    side = "reference" if isinstance(thing, Truth) else "predicted"
    entry: dict[str, Any] = {}
    if shape is Shape.BOX or (shape is Shape.KEYPOINTS and side == "reference"):
        if thing.box is None:
            raise MetricError(metric, example, f"a {side} object has no box")
        check_box(thing.box, metric=metric, example=example, side=side)
        top, left, bottom, right = map(float, thing.box)
        entry["bbox"] = [left, top, max(right - left, 0.0), max(bottom - top, 0.0)]
    if shape is Shape.MASK:
        entry["segmentation"] = _run_lengths(thing.mask, metric=metric, example=example, side=side)
        sizes.add(tuple(entry["segmentation"]["size"]))
    if shape is Shape.KEYPOINTS:
        points = np.zeros(0) if thing.keypoints is None else np.asarray(thing.keypoints, np.float64)
        if points.size != 51 or not np.isfinite(points).all():
            raise MetricError(
                metric, example, f"a {side} object has {points.size} keypoint numbers, expected 51 finite"
            )
        entry["keypoints"] = points.reshape(-1).tolist()
        entry["num_keypoints"] = int((points.reshape(-1, 3)[:, 2] > 0).sum())
    return entry


def _run_lengths(mask: Any, *, metric: str, example: Id, side: str) -> dict[str, Any]:
    from pycocotools import mask as codec

    if mask is None:
        raise MetricError(metric, example, f"a {side} object has no mask")
    if isinstance(mask, Mapping):
        return dict(mask)
    if np.ndim(mask) != 2:
        raise MetricError(metric, example, f"a {side} mask has shape {np.shape(mask)}, expected (height, width)")
    return codec.encode(np.asfortranarray(np.asarray(mask, bool).astype(np.uint8)))


def _area(truth: Truth, entry: dict[str, Any]) -> float:
    if "segmentation" in entry:
        from pycocotools import mask as codec

        return float(codec.area(entry["segmentation"]))
    return float(entry["bbox"][2] * entry["bbox"][3])
