"""Stage 1 for images: onto the model's canvas, with what is needed to undo it; and patches for stage 2.

The numbers (`place`) are computed before any pixel moves, so a task can look where its box would land
and choose another placement before paying for a resize. Source of the rules: MODEL.md section 13.

`image_info`, float32 [11]: top pad, left pad, 1/scale, height, width, offset_y/height, offset_x/width,
offset_y, offset_x, scaled height, scaled width; height and width are the source image's, the rest canvas pixels.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from uio2.tasks.lazy import tf

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
TRAIN_SCALE = (0.75, 1.3333)
SMALLEST_SIDE = 64.0
# In the order in which a drawn number counts them.
METHODS = ("area", "bicubic", "bilinear", "gaussian", "lanczos3", "lanczos5", "mitchellcubic", "nearest")
# What TensorFlow calls those that antialias.
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic", "gaussian": "gaussian", "lanczos3": "lanczos3",
            "lanczos5": "lanczos5", "mitchellcubic": "mitchellcubic"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Canvas:
    """The image input's shape: size (height, width) in pixels, multiples of the patch side."""

    size: tuple[int, int] = (384, 384)
    patch: int = 16

    @property
    def grid(self) -> tuple[int, int]:
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a source image goes; all tensors.

    Attributes:
      source: float32 [2], height and width of the source image.
      scale: float32 scalar, canvas pixels per source pixel.
      scaled: int32 [2], size after the resize, before the crop.
      offset: int32 [2], top left corner of the crop in the scaled image.
      pad: int32 [2], rows above and columns left of the crop on the canvas.
      crop: int32 [2], size of the crop.
    """

    source: tf.Tensor
    scale: tf.Tensor
    scaled: tf.Tensor
    offset: tf.Tensor
    pad: tf.Tensor
    crop: tf.Tensor

    def info(self) -> tf.Tensor:
        """The 11 numbers of `image_info`."""
        offset = tf.cast(self.offset, tf.float32)
        inverse = tf.reshape(1.0 / self.scale, [1])
        pad, scaled = tf.cast(self.pad, tf.float32), tf.cast(self.scaled, tf.float32)
        return tf.concat([pad, inverse, self.source, offset / self.source, offset, scaled], 0)


def _finish(source: tf.Tensor, scale: tf.Tensor, draws: tf.Tensor | None, size: tuple[int, int]) -> Placement:
    scaled = tf.maximum(tf.cast(source * scale, tf.int32), 1)
    canvas = tf.constant(size, tf.int32)
    offset = tf.zeros(2, tf.int32)
    if draws is not None:
        offset = tf.cast(tf.cast(tf.maximum(scaled - canvas, 0), tf.float32) * draws, tf.int32)
    crop = tf.minimum(scaled - offset, canvas)
    return Placement(source, scale, scaled, offset, (canvas - crop) // 2, crop)


def source_size(data: tf.Tensor) -> tf.Tensor:
    """int32 [2], height and width of an encoded image, from its header where it is a JPEG or PNG.

    So that what is placed where does not wait for pixels, and costs nothing where nobody asks for them.
    """
    png = tf.strings.substr(data, 0, 8) == b"\x89PNG\r\n\x1a\n"

    def of_png() -> tf.Tensor:
        sides = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
        return tf.reverse(sides, [0])

    def of_pixels() -> tf.Tensor:
        return tf.shape(tf.io.decode_image(data, channels=3, expand_animations=False))[:2]

    def of_others() -> tf.Tensor:
        return tf.cond(png, of_png, of_pixels)

    size = tf.cond(tf.io.is_jpeg(data), lambda: tf.image.extract_jpeg_shape(data)[:2], of_others)
    return tf.ensure_shape(size, [2])


def place(source: tf.Tensor, *, size: tuple[int, int]) -> Placement:
    """Fits the whole image into the canvas, centred.

    Args:
      source: float32 [2], height and width of the image.
      size: height and width of the canvas.
    """
    return _finish(source, tf.reduce_min(tf.constant(size, tf.float32) / source), None, size)


def place_randomly(source: tf.Tensor, *, size: tuple[int, int], draws: tf.Tensor) -> Placement:
    """Random scale and crop for training.

    Args:
      source: float32 [2], height and width of the image.
      size: height and width of the canvas.
      draws: float32 [4] in 0..1: scale, choice of the side that must fit, vertical and horizontal offset.
    """
    low, high = TRAIN_SCALE
    canvas = tf.constant(size, tf.float32)
    target = tf.floor((low + draws[0] * (high - low)) * canvas)
    ratios = target / source
    scale = tf.where(draws[1] < 0.5, tf.reduce_max(ratios), tf.reduce_min(ratios))
    scale = tf.maximum(scale, SMALLEST_SIDE / tf.reduce_min(source))
    return _finish(source, scale, draws[2:4], size)


def follow(placement: Placement, *, size: tuple[int, int], onto: tuple[int, int]) -> Placement:
    """Where another canvas, `onto`, shows the part of the image that a placement shows on one of `size`."""
    ratio = min(onto[0] / size[0], onto[1] / size[1])

    def shrunk(lengths: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.round(tf.cast(lengths, tf.float32) * ratio), tf.int32)

    scaled = tf.maximum(shrunk(placement.scaled), 1)
    offset = tf.minimum(shrunk(placement.offset), scaled - 1)
    crop = tf.minimum(tf.maximum(shrunk(placement.crop), 1), scaled - offset)
    pad = (tf.constant(onto, tf.int32) - crop) // 2
    return Placement(placement.source, placement.scale * ratio, scaled, offset, pad, crop)


def choose(condition: tf.Tensor, yes: Placement, no: Placement) -> Placement:
    """`yes` where the scalar condition holds, else `no`."""
    fields = [f.name for f in dataclasses.fields(Placement)]
    return Placement(**{f: tf.where(condition, getattr(yes, f), getattr(no, f)) for f in fields})


def render(
    image: tf.Tensor, placement: Placement, *, size: tuple[int, int], method: str | tf.Tensor = "bilinear"
) -> tf.Tensor:
    """The image on the canvas: float32 [H, W, 3] in 0..1, zero outside.

    Args:
      image: uint8 or float32 [h, w, 3]; floats are in 0..1 already.
      placement: for this image's size.
      size: height and width of the canvas.
      method: a name of `METHODS`, or an int32 scalar that counts into them; antialiased.
    """
    same = tf.reduce_all(tf.shape(image)[:2] == placement.scaled)

    def resized() -> tf.Tensor:
        if isinstance(method, str):
            return _resize(image, placement, method)
        return tf.switch_case(method, [lambda m=m: _resize(image, placement, m) for m in METHODS])

    # At scale 1 the resize is the identity and would cost more than the decode.
    image = tf.cond(same, lambda: tf.image.convert_image_dtype(_cut(image, placement), tf.float32), resized)
    after = tf.constant(size, tf.int32) - placement.crop - placement.pad
    padding = tf.concat([tf.stack([placement.pad, after], 1), [[0, 0]]], 0)
    return tf.ensure_shape(tf.pad(image, padding), [*size, 3])


def _cut(scaled: tf.Tensor, placement: Placement) -> tf.Tensor:
    top, left = placement.offset[0], placement.offset[1]
    return scaled[top : top + placement.crop[0], left : left + placement.crop[1]]


def _resize(image: tf.Tensor, placement: Placement, method: str) -> tf.Tensor:
    """The crop of the scaled image, float32 in 0..1."""
    if method not in _KERNELS:
        whole = tf.image.resize(tf.image.convert_image_dtype(image, tf.float32), placement.scaled, method=method)
        return tf.clip_by_value(_cut(whole, placement), 0.0, 1.0)
    columns, channels = tf.shape(image)[1], image.shape[-1]
    values = _resize_rows(tf.reshape(image, [tf.shape(image)[0], columns * channels]), placement, method, side=0)
    values = tf.transpose(tf.reshape(values, [-1, columns, channels]), [1, 0, 2])
    values = _resize_rows(tf.reshape(values, [columns, -1]), placement, method, side=1)
    values = tf.transpose(tf.reshape(values, [placement.crop[1], -1, channels]), [1, 0, 2])
    return tf.clip_by_value(values / image.dtype.max if image.dtype.is_integer else values, 0.0, 1.0)


def _resize_rows(rows: tf.Tensor, placement: Placement, method: str, *, side: int) -> tf.Tensor:
    """float32 [crop, values] of rows [n, values] as they are decoded.

    What `tf.image.resize` does to both sides at once (the same numbers to the last bit), but with whole rows as the
    channels of a single column: its loop over the few channels of a pixel takes four fifths of its time. What is cut
    off is made first: starting at the crop moves the sampled points by 1e-4 of a pixel.
    """
    length, start = placement.scaled[side], placement.offset[side]
    scale = tf.cast(length, tf.float32) / tf.cast(tf.shape(rows)[0], tf.float32)
    values = tf.raw_ops.ScaleAndTranslate(
        images=rows[None, :, None], size=tf.stack([length, 1]), scale=tf.stack([scale, 1.0]),
        translation=tf.zeros(2), kernel_type=_KERNELS[method], antialias=True,
    )  # fmt: skip
    return values[0, start : start + placement.crop[side], 0]


def render_frames(frames: tf.Tensor, placement: Placement, *, size: tuple[int, int]) -> tf.Tensor:
    """Frames [f, h, w, 3] of one size on the canvas, all placed alike: float32 [f, H, W, 3]."""
    spec = tf.TensorSpec([*size, 3], tf.float32)
    return tf.map_fn(lambda frame: render(frame, placement, size=size), frames, fn_output_signature=spec)


def pixel_mask(placement: Placement, *, size: tuple[int, int]) -> tf.Tensor:
    """bool [H, W]: true where the canvas holds image."""
    rows, columns = tf.range(size[0]), tf.range(size[1])
    start, stop = placement.pad, placement.pad + placement.crop
    inside_rows = (rows >= start[0]) & (rows < stop[0])
    inside_columns = (columns >= start[1]) & (columns < stop[1])
    return inside_rows[:, None] & inside_columns[None]


def normalise(images: tf.Tensor) -> tf.Tensor:
    """[B, H, W, 3] in 0..1 to CLIP's mean and deviation; padding becomes -mean/std, as the published models saw it."""
    _, height, width, channels = images.shape
    # By rows: TensorFlow takes nine times as long to repeat three numbers as to repeat a row of them.
    mean, std = (np.tile(np.array(values, np.float32), width) for values in (CLIP_MEAN, CLIP_STD))
    rows = tf.reshape(images, [-1, height, width * channels])
    return tf.reshape((rows - mean) / std, [-1, height, width, channels])


def normalise_target(images: tf.Tensor) -> tf.Tensor:
    """0..1 to -1..1, as the image codec was trained on; padding becomes -1."""
    return images * 2 - 1


def patchify(images: tf.Tensor, *, patch: int) -> tf.Tensor:
    """[B, H, W, C] to [B, rows*columns, patch*patch*C]; row-major grid, each patch row, column, channel."""
    _, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    blocks = tf.reshape(images, [-1, rows, patch, columns, patch, channels])
    return tf.reshape(tf.transpose(blocks, [0, 1, 3, 2, 4, 5]), [-1, rows * columns, patch * patch * channels])


def patch_mask(masks: tf.Tensor, *, patch: int) -> tf.Tensor:
    """bool [B, H, W] to int32 [B, rows*columns]: the pixel right below the centre of each patch decides."""
    centres = masks[:, patch // 2 :: patch, patch // 2 :: patch]
    return tf.reshape(tf.cast(centres, tf.int32), [-1, centres.shape[1] * centres.shape[2]])


def sample_patches(mask: tf.Tensor, noise: tf.Tensor, *, count: int) -> tf.Tensor:
    """int32 [B, count]: which patches are kept: those of the mask first, by the order of their noise.

    Args:
      mask: int32 [B, n].
      noise: float32 [B, n] in 0..1.
      count: how many of the n.
    """
    order = tf.argsort(noise + tf.cast(mask == 0, noise.dtype), axis=-1, stable=True)
    return order[:, :count]
