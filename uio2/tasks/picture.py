"""Stage 1 for target pictures: an image, a mask or a map on the target canvas, and which of its codes count.

A code is a square of the canvas (`RegisterSpec.image_target_patch_size`); code masks are bool [codes], row by row.
Maps (masks, depth, normals) are resized to the nearest pixel: a mean of known and unknown, or of two sides of an edge,
is a value that nobody measured.
"""

from __future__ import annotations

from uio2.tasks import image
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec


def target(pixels: tf.Tensor, placement: image.Placement, *, recipe: RegisterSpec,
           method: str = "bilinear") -> dict[str, tf.Tensor]:  # fmt: skip
    """Stage 1 keys of a target picture: `pixels` as for `image.render`, placed on the target canvas."""
    size = recipe.image_target_size
    return {
        "image_targets": image.render(pixels, placement, size=size, method=method),
        "image_targets_mask": image.pixel_mask(placement, size=size),
    }


def decode_map(data: tf.Tensor, *, channels: int, dtype: tf.DType | None = None) -> tf.Tensor:
    """uint8 (or `dtype`) [h, w, channels] of a PNG; [0, 0, channels] where there are no bytes."""
    kind = dtype or tf.uint8
    return tf.cond(
        tf.strings.length(data) > 0,
        lambda: tf.io.decode_png(data, channels=channels, dtype=kind),
        lambda: tf.zeros([0, 0, channels], kind),
    )


def map_target(values: tf.Tensor, known: tf.Tensor, placement: image.Placement, *,
               recipe: RegisterSpec) -> dict[str, tf.Tensor]:  # fmt: skip
    """Stage 1 keys of a measured map; codes that are unknown for the most part are not learned.

    Args:
      values: float32 [h, w, 3] in 0..1; what is not known becomes black.
      known: bool [h, w].
      placement: on the target canvas.
      recipe: the canvas's size and patch.
    """
    measured = tf.repeat(tf.cast(known, tf.float32)[..., None], 3, axis=-1)
    found = target(values * measured, placement, recipe=recipe, method="nearest")
    placed = image.render(measured, placement, size=recipe.image_target_size, method="nearest")[..., 0]
    return {**found, "image_targets_loss_mask": code_share(placed, recipe=recipe) >= 0.5}


def code_share(canvas: tf.Tensor, *, recipe: RegisterSpec) -> tf.Tensor:
    """float32 [codes]: mean of a target canvas [H, W] over the square of each code."""
    side = recipe.image_target_patch_size
    rows, columns = (length // side for length in recipe.image_target_size)
    return tf.reshape(tf.reduce_mean(tf.reshape(canvas, [rows, side, columns, side]), axis=[1, 3]), [-1])


def box_pixels(box: tf.Tensor, *, size: tuple[int, int]) -> tf.Tensor:
    """bool [H, W]: the pixels of a canvas that a box on it (float32 [4]) touches."""
    start, stop = tf.floor(box[:2]), tf.math.ceil(box[2:])
    rows, columns = tf.range(size[0], dtype=tf.float32), tf.range(size[1], dtype=tf.float32)
    tall = (rows >= start[0]) & (rows < stop[0])
    wide = (columns >= start[1]) & (columns < stop[1])
    return tall[:, None] & wide[None]
