"""Stage 1 for boxes: source to canvas pixels, and as text. Boxes are y1, x1, y2, x2 throughout.

Reading texts back and undoing the placement is numpy only: `uio2.tasks.locations`.
"""

from __future__ import annotations

from uio2.tasks.draws import noise
from uio2.tasks.image import Placement
from uio2.tasks.lazy import tf
from uio2.tasks.locations import FIRST_LOCATION, LOCATION_BINS


def to_canvas(boxes: tf.Tensor, placement: Placement, *, size: tuple[int, int]) -> tf.Tensor:
    """Normalised boxes [..., 4] of the source image in canvas pixels, clipped to the canvas."""
    source = tf.tile(placement.source, [2])
    shift = tf.tile(tf.cast(placement.pad - placement.offset, tf.float32), [2])
    limits = tf.constant(tuple(size) * 2, tf.float32)
    return tf.clip_by_value(boxes * source * placement.scale + shift, 0.0, limits)


def inside(boxes: tf.Tensor) -> tf.Tensor:
    """Normalised boxes [..., 4] without what lies beyond the image; nothing is left of those wholly outside."""
    return tf.clip_by_value(boxes, 0.0, 1.0)


def has_area(boxes: tf.Tensor) -> tf.Tensor:
    """bool [...]: false for boxes that are empty, inverted or wholly outside."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def on_image(boxes: tf.Tensor) -> tf.Tensor:
    """bool [...]: which normalised boxes have an area on the image; false where a number is none."""
    return has_area(tf.clip_by_value(boxes, 0.0, 1.0))


def location_pieces(values: tf.Tensor) -> tf.Tensor:
    """Numbers in 0..1 as strings of one location piece each; the bin is truncated, as in `locations.value_to_text`."""
    bins = tf.cast(values * (LOCATION_BINS - 1), tf.int32) + FIRST_LOCATION
    return tf.strings.join(["<extra_id_", tf.strings.as_string(bins), ">"])


def to_text(boxes: tf.Tensor, *, size: tuple[int, int]) -> tf.Tensor:
    """Canvas boxes [..., 4] as strings [...] of four location pieces."""
    limits = tf.constant(tuple(size) * 2, tf.float32)
    return tf.strings.reduce_join(location_pieces(boxes / limits), axis=-1, separator=" ")


def list_text(texts: tf.Tensor, *, labels: tf.Tensor | None = None, separator: str = " ") -> tf.Tensor:
    """One string of box texts [n], each followed by its label where there are labels (string [n])."""
    named = texts if labels is None else tf.strings.join([texts, labels], separator=" ")
    return tf.strings.reduce_join(named, separator=separator)


def fitting(lengths: tf.Tensor, *, limit: int) -> tf.Tensor:
    """int32 scalar: how many of the first items, of so many tokens each (int [n]), fit into `limit` with EOS."""
    return tf.reduce_sum(tf.cast(tf.cumsum(lengths) < limit, tf.int32))


def usable(boxes: tf.Tensor, placement: Placement, *, size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Canvas boxes [m, 4] of those of n normalised ones that have an area there, and their indices int32 [m].

    Empty and inverted boxes, those beside the image and cropped-away ones are left out; whoever pairs boxes with
    labels gathers by the indices.
    """
    placed = to_canvas(boxes, placement, size=size)
    kept = tf.cast(tf.where(on_image(boxes) & has_area(placed))[:, 0], tf.int32)
    return tf.gather(placed, kept), kept


def shuffle(count: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """int32 [count]: an order of the boxes, a function of one number in 0..1."""
    return tf.argsort(noise(count, draw), stable=True)
