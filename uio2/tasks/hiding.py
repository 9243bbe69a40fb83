"""Parts of a picture or spectrogram hidden from the encoder, and the codes of the target that lie there.

The grid is that of the input's patches, because those are what the encoder sees or does not. A code of the target is
hidden where its centre lies in a hidden patch. On spectrograms a patch is four codes; on pictures at the published
sizes (24 x 24 patches, 32 x 32 codes) some codes at the edge of a hole are seen in part.
"""

from __future__ import annotations

from uio2.tasks import image
from uio2.tasks.lazy import tf


def hidden_pixels(mask: tf.Tensor, *, patch: int, share: float, noise: tf.Tensor) -> tf.Tensor:
    """bool [H, W]: whole patches, `share` of those that show anything, at least one of them.

    Args:
      mask: bool [H, W], where there is picture; H and W multiples of the patch.
      patch: side of a patch.
      share: in 0..1.
      noise: float32 [patches] in 0..1: those with the least are hidden.
    """
    rows, columns = mask.shape[0] // patch, mask.shape[1] // patch
    shown = image.patch_mask(mask[None], patch=patch)[0] > 0
    number = tf.cast(tf.reduce_sum(tf.cast(shown, tf.int32)), tf.float32)
    count = tf.maximum(tf.cast(tf.round(number * share), tf.int32), 1)
    rank = tf.argsort(tf.argsort(noise + tf.cast(~shown, tf.float32), stable=True), stable=True)
    hidden = tf.reshape((rank < count) & shown, [rows, columns])
    return tf.repeat(tf.repeat(hidden, patch, axis=0), patch, axis=1)


def hidden_codes(hidden: tf.Tensor, *, seen: image.Placement | None, made: image.Placement | None,
                 size: tuple[int, int], patch: int) -> tf.Tensor:  # fmt: skip
    """bool [codes]: codes of the target canvas whose centre is hidden on the input canvas.

    Args:
      hidden: bool [H, W] on the input canvas.
      seen, made: where the same source lies on the input and the target canvas, uncropped; None for both if the
        canvases are one.
      size: of the target canvas.
      patch: side of a code.
    """
    rows, columns = (
        _across(size[axis], patch=patch, limit=hidden.shape[axis], axis=axis, seen=seen, made=made) for axis in (0, 1)
    )
    return tf.reshape(tf.gather(tf.gather(hidden, rows, axis=0), columns, axis=1), [-1])


def _across(length: int, *, patch: int, limit: int, axis: int, seen: image.Placement | None,
            made: image.Placement | None) -> tf.Tensor:  # fmt: skip
    """int32 [codes of the axis]: the input canvas' pixel below each code's centre."""
    centres = tf.range(patch // 2, length, patch)
    if seen is None or made is None:
        return centres
    source = (tf.cast(centres - made.pad[axis], tf.float32) + 0.5) / tf.cast(made.scaled[axis], tf.float32)
    pixel = tf.cast(tf.floor(source * tf.cast(seen.scaled[axis], tf.float32)), tf.int32) + seen.pad[axis]
    return tf.clip_by_value(pixel, 0, limit - 1)
