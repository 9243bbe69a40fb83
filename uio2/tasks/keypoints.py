"""Stage 1 for keypoints: source to canvas pixels, and as text: `y x name` for each point that can be seen.

The order of the parts is COCO's; a text that has to be short ends behind its last whole part. Reading a text back is
numpy (`from_text`): parts that a text does not name stand at the mean of those it does, with visibility 0, which is
how the published model's answers are scored (TASKS.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from uio2.tasks.boxes import fitting, location_pieces
from uio2.tasks.image import Placement
from uio2.tasks.lazy import tf
from uio2.tasks.locations import parse_labelled_points

COCO_PARTS = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip
VISIBLE = 2
COORDINATES = 2


def to_canvas(points: tf.Tensor, placement: Placement, *, size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Points [..., 2] (y, x) in 0..1 of the source image, in canvas pixels, and bool [...]: inside the crop.

    A point outside is clipped to the canvas; it is for the caller to leave it out.
    """
    shift = tf.cast(placement.pad - placement.offset, tf.float32)
    placed = points * placement.source * placement.scale + shift
    start = tf.cast(placement.pad, tf.float32)
    inside = tf.reduce_all((placed >= start) & (placed <= start + tf.cast(placement.crop, tf.float32)), axis=-1)
    return tf.clip_by_value(placed, 0.0, tf.constant(size, tf.float32)), inside


def to_text(points: tf.Tensor, seen: tf.Tensor, *, size: tuple[int, int], parts: Sequence[str] = COCO_PARTS,
            tokens: Callable[[str], int] | None = None, limit: int = 0) -> tf.Tensor:  # fmt: skip
    """One string of canvas points; empty when there is none.

    Args:
      points: float32 [n, 2], y and x.
      seen: bool [n], the points to be named.
      size: of the canvas.
      parts: their names.
      tokens: how many a name has; None names all points, however long the text.
      limit: the most tokens of the text, with EOS.
    """
    pieces = tf.strings.reduce_join(location_pieces(points / tf.constant(size, tf.float32)), axis=-1, separator=" ")
    named = tf.boolean_mask(tf.strings.join([pieces, tf.constant(list(parts))], separator=" "), seen)
    if tokens is not None:
        lengths = tf.constant([COORDINATES + tokens(part) for part in parts])
        named = named[: fitting(tf.boolean_mask(lengths, seen), limit=limit)]
    return tf.strings.reduce_join(named, separator=" ")


def from_text(text: str, *, size: tuple[int, int], parts: Sequence[str] = COCO_PARTS) -> np.ndarray | None:
    """float64 [parts, 3] of (x, y, visibility 2 or 0) in canvas pixels; None if the text names no known part.

    A part that is named twice stands where it was named first.
    """
    out = np.zeros((len(parts), 3))
    for (y, x), label in zip(*parse_labelled_points(text, size=size), strict=True):
        name = label.lower().strip(" ,.")
        if name in parts and not out[parts.index(name), 2]:
            out[parts.index(name)] = x, y, VISIBLE
    seen = out[:, 2] > 0
    if not seen.any():
        return None
    out[~seen, :2] = out[seen, :2].mean(0)
    return out
