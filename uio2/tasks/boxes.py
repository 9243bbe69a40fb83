"""Stage 1 for boxes: source to canvas pixels, and as text. Boxes are y1, x1, y2, x2 throughout.

Reading texts back and undoing the placement is numpy only: `uio2.tasks.locations`.
"""

from __future__ import annotations

import tensorflow as tf

from uio2.tasks.image import Placement
from uio2.tasks.locations import FIRST_LOCATION, LOCATION_BINS


def to_canvas(boxes: tf.Tensor, placement: Placement, *, size: tuple[int, int]) -> tf.Tensor:
    """Normalised boxes [..., 4] of the source image in canvas pixels, clipped to the canvas."""
    source = tf.tile(placement.source, [2])
    shift = tf.tile(tf.cast(placement.pad - placement.offset, tf.float32), [2])
    limits = tf.constant(tuple(size) * 2, tf.float32)
    return tf.clip_by_value(boxes * source * placement.scale + shift, 0.0, limits)


def has_area(boxes: tf.Tensor) -> tf.Tensor:
    """bool [...]: false for boxes that are empty, inverted or wholly outside."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def to_text(boxes: tf.Tensor, *, size: tuple[int, int]) -> tf.Tensor:
    """Canvas boxes [..., 4] as strings [...] of four location pieces; the bin is truncated."""
    limits = tf.constant(tuple(size) * 2, tf.float32)
    bins = tf.cast(boxes / limits * (LOCATION_BINS - 1), tf.int32) + FIRST_LOCATION
    pieces = tf.strings.join(["<extra_id_", tf.strings.as_string(bins), ">"])
    return tf.strings.reduce_join(pieces, axis=-1, separator=" ")
