"""Stage 1 for several pictures of one example: frames of a video, or images before the one that is asked about.

The last one is the image input, those before it are the image history (TASKS.md, "Preprocessor inputs").
"""

from __future__ import annotations

from uio2.tasks import image
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec


def spread(total: int | tf.Tensor, *, count: int) -> tf.Tensor:
    """int32 [min(total, count)]: frames at even distances, each from the middle of its share of the video."""
    total = tf.cast(total, tf.int32)
    kept = tf.minimum(total, count)
    return tf.cast((tf.range(kept) * 2 + 1) * total // tf.maximum(kept * 2, 1), tf.int32)


def decode_frames(files: tf.Tensor) -> tf.Tensor:
    """uint8 [f, h, w, 3] of image files (string [f]) that all have one size."""
    spec = tf.TensorSpec([None, None, 3], tf.uint8)
    return tf.map_fn(
        lambda file: tf.io.decode_image(file, channels=3, expand_animations=False), files, fn_output_signature=spec
    )


def features(frames: tf.Tensor, *, recipe: RegisterSpec) -> tuple[dict[str, tf.Tensor], image.Placement]:
    """Stage 1 keys of frames [f, h, w, 3], f of at least 1, each whole on its canvas; and where the last one lies.

    History beyond `recipe.num_frames` is cut off before it costs a resize: the first frames stay.
    """
    source = tf.cast(tf.shape(frames)[1:3], tf.float32)
    placement = image.place(source, size=recipe.image_size)
    small = image.place(source, size=recipe.image_history_size)
    history = frames[:-1][: recipe.num_frames]
    mask = image.pixel_mask(small, size=recipe.image_history_size)
    found = {
        "image_inputs": image.render(frames[-1], placement, size=recipe.image_size),
        "image_inputs_mask": image.pixel_mask(placement, size=recipe.image_size),
        "image_history_inputs": image.render_frames(history, small, size=recipe.image_history_size),
        "image_history_inputs_mask": tf.repeat(mask[None], tf.shape(history)[0], axis=0),
    }
    return found, placement
