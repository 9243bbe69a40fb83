"""Location tokens: numbers in 0..1 as one of 1000 special pieces, and texts of boxes read back.

`<extra_id_200>` .. `<extra_id_1199>` stand for 0 .. 1 in steps of 1/999; they lie in reverse order right
behind the base pieces, so the token id of extra id k is `base + 1199 - k`. Light: numpy only.
Source of the constants: MODEL.md sections 12 and 13.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

EXTRA_IDS = 1200
FIRST_LOCATION = 200
LOCATION_BINS = 1000
EOS_ID = 1

_TOKEN = re.compile(r"<extra_id_(\d+)>")
_BOX = re.compile(r"\s*".join([r"<extra_id_(\d+)>"] * 4))
_LABELLED_BOX = re.compile(r" ".join([r"<extra_id_(\d+)>"] * 4) + r" ([^<]+)")
_LABELLED_POINT = re.compile(r" ".join([r"<extra_id_(\d+)>"] * 2) + r" ([^<]+)")


def extra_id_token(extra_id: int, *, base_size: int) -> int:
    """Token id of `<extra_id_k>` above a base model of `base_size` pieces."""
    return base_size + EXTRA_IDS - 1 - extra_id


def value_to_text(value: float) -> str:
    """A number in 0..1 as a location piece; the bin is truncated, not rounded."""
    return f"<extra_id_{FIRST_LOCATION + int(np.float32(value) * np.float32(LOCATION_BINS - 1))}>"


def values_to_text(values: Sequence[float]) -> str:
    """Numbers in 0..1 as location pieces joined by spaces."""
    return " ".join(value_to_text(v) for v in values)


def tokens_to_values(tokens: Sequence[int], *, base_size: int) -> list[float]:
    """The numbers of the location tokens before the first EOS; other tokens are passed over."""
    values = []
    for token in tokens:
        if token == EOS_ID:
            break
        if base_size <= token < base_size + LOCATION_BINS:
            values.append(1 - (int(token) - base_size) / (LOCATION_BINS - 1))
    return values


def _coordinates(numbers: Sequence[str], size: tuple[int, int]) -> list[float] | None:
    """Pixels of alternating y and x pieces; None if one is not a location."""
    ids = [int(n) for n in numbers]
    if any(not FIRST_LOCATION <= i < EXTRA_IDS for i in ids):
        return None
    return [(i - FIRST_LOCATION) / LOCATION_BINS * size[n % 2] for n, i in enumerate(ids)]


def parse_boxes(text: str, *, size: tuple[int, int]) -> list[list[float]]:
    """Boxes `[y1, x1, y2, x2]` in pixels of a canvas `size` (height, width), in order of appearance.

    A run of four location pieces is a box, with or without spaces between them. The step is 1/1000 here,
    not the 1/999 of writing: this is how published predictions were read.
    """
    boxes = (_coordinates(m.groups(), size) for m in _BOX.finditer(text))
    return [b for b in boxes if b is not None]


def parse_labelled_boxes(text: str, *, size: tuple[int, int]) -> tuple[list[list[float]], list[str]]:
    """Boxes followed by a label, as (boxes, labels); pieces must be separated by single spaces."""
    boxes, labels = [], []
    for match in _LABELLED_BOX.finditer(text):
        box = _coordinates(match.groups()[:4], size)
        if box is not None:
            boxes.append(box)
            labels.append(match.group(5).strip())
    return boxes, labels


def parse_labelled_points(text: str, *, size: tuple[int, int]) -> tuple[list[list[float]], list[str]]:
    """Points `[y, x]` followed by a label, as (points, labels)."""
    points, labels = [], []
    for match in _LABELLED_POINT.finditer(text):
        point = _coordinates(match.groups()[:2], size)
        if point is not None:
            points.append(point)
            labels.append(match.group(3).strip())
    return points, labels


def undo_box(box: Sequence[float], *, image_info: Sequence[float]) -> list[float]:
    """A box on the canvas back in pixels of the source image.

    Args:
      box: y1, x1, y2, x2 in canvas pixels.
      image_info: the 11 numbers of `uio2.tasks.image`.

    Raises:
      ValueError: the image was cropped (offsets above 0): the inverse is only defined without.
    """
    top, left, inverse_scale, height, width = image_info[:5]
    if image_info[7] or image_info[8]:
        raise ValueError(f"image_info has crop offsets {image_info[7:9]}; a box is only undone on an uncropped image")
    pads, limits = (top, left, top, left), (height, width, height, width)
    return [float(min(max((v - p) * inverse_scale, 0.0), m)) for v, p, m in zip(box, pads, limits, strict=True)]
