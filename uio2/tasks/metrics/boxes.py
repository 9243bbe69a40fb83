"""Boxes out of predicted text, back into the source image, and how well two of them overlap.

A location token `<extra_id_k>`, k in 200..1199, stands for the coordinate `(k - 200) / 1000` of the model's square
input; encoding truncates to 1/999 steps, so the round trip is short by up to 0.2% of the side (the original's
convention, kept so that published numbers can be compared). `image_info` is the original's vector of 11 numbers:
`[top_pad, left_pad, 1/scale, height, width, off_y/h, off_x/w, off_y, off_x, scaled_h, scaled_w]`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

FIRST_LOCATION = 200
LAST_LOCATION = 1199
LOCATION_SCALE = 1000.0
IMAGE_INFO_LENGTH = 11

_TOKEN = re.compile(r"<extra_id_(\d+)>")
_RUN = re.compile(r"<extra_id_\d+>(?:\s*<extra_id_\d+>)*")


def locations_to_boxes(text: str) -> Float[np.ndarray, "n 4"]:
    """Every box named in `text`, in order, as fractions of the model's input.

    Four location tokens in a row are one box; a run broken by anything else drops its rest, as do extra ids that
    are not locations.
    """
    boxes: list[list[float]] = []
    for run in _RUN.findall(text):
        values: list[float] = []
        for number in map(int, _TOKEN.findall(run)):
            if not FIRST_LOCATION <= number <= LAST_LOCATION:
                values.clear()
                continue
            values.append((number - FIRST_LOCATION) / LOCATION_SCALE)
            if len(values) == 4:
                boxes.append(values)
                values = []
    return np.array(boxes, np.float64).reshape(-1, 4)


def undo_box_preprocessing(boxes: Float[np.ndarray, "n 4"], *, image_info: Sequence[float]) -> Float[np.ndarray, "n 4"]:
    """Boxes in pixels of the padded input -> pixels of the source image, clipped to it.

    Raises:
      ValueError: `image_info` is not 11 numbers, or it tells of a crop, which loses what undoing needs.
    """
    if len(image_info) != IMAGE_INFO_LENGTH:
        raise ValueError(
            f"image_info has {len(image_info)} numbers, expected {IMAGE_INFO_LENGTH}: {list(image_info)!r}"
        )
    top, left, inverse_scale, height, width = image_info[:5]
    if any(image_info[5:9]):
        raise ValueError(
            f"image_info {list(image_info)!r} has crop offsets; boxes can only be undone for uncropped "
            "(evaluation mode) images"
        )
    moved = (np.asarray(boxes, np.float64).reshape(-1, 4) - np.array([top, left, top, left])) * inverse_scale
    return np.clip(moved, 0.0, np.array([height, width, height, width]))


def first_box(text: str, *, image_info: Sequence[float], input_size: Sequence[int]) -> Float[np.ndarray, " 4"] | None:
    """The first predicted box in source pixels, or None when the text holds none.

    Args:
      text: the model's output.
      image_info: how the source image was placed in the input (module docstring).
      input_size: (height, width) of the model's input in pixels.
    """
    boxes = locations_to_boxes(text)
    if not len(boxes):
        return None
    height, width = input_size
    return undo_box_preprocessing(boxes[:1] * np.array([height, width, height, width]), image_info=image_info)[0]


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
