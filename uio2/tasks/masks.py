"""Stage 1 for segmentation masks: a mask becomes a target image, white on black, and an image becomes a mask again.

Masks are stored as COCO's run lengths (column by column, background first), which the graph expands itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uio2.tasks import image
from uio2.tasks.lazy import tf
from uio2.tasks.undo import undo_picture

THRESHOLD = 0.5


def from_counts(counts: tf.Tensor, *, size: tf.Tensor) -> tf.Tensor:
    """bool [h, w] of run lengths (int [n]) of an image of this size; a list too short or long is cut or filled."""
    total = size[0] * size[1]
    values = tf.repeat(tf.range(tf.size(counts)) % 2 == 1, counts)[:total]
    values = tf.pad(values, [[0, total - tf.size(values)]])
    return tf.transpose(tf.reshape(values, [size[1], size[0]]))


def to_target(mask: tf.Tensor, placement: image.Placement, *, size: tuple[int, int]) -> tf.Tensor:
    """float32 [H, W, 3]: the mask (bool [h, w]) placed on the target canvas, without values between 0 and 1."""
    pixels = tf.repeat(tf.cast(mask, tf.float32)[..., None], 3, axis=-1)
    return image.render(pixels, placement, size=size, method="nearest")


def from_image(pixels: np.ndarray, *, image_info: Sequence[float]) -> np.ndarray:
    """bool [h, w] in source pixels of a generated image (float [H, W, 3] in 0..1): mean of channels above a half.

    Args:
      pixels: the whole target canvas.
      image_info: the 11 numbers of `uio2.tasks.image` for that canvas; the crop must be the whole image.

    Raises:
      ValueError: the image was cropped.
    """
    return undo_picture(np.asarray(pixels).mean(-1) > THRESHOLD, image_info=image_info)
