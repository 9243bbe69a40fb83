"""Stage 1 for tasks about a video clip: the last of a few frames is the image input, those before it are the image
history; of its sound the last segment is the audio input, those before it are the audio history.

Frames are taken at even distances over the clip, `RegisterSpec.num_frames` + 1 of them; a recipe without an image
history sees the one from the middle. A clip without sound has audio inputs that are masked whole.
"""

from __future__ import annotations

from uio2.tasks import audio, video
from uio2.tasks.audio_family import clip_features
from uio2.tasks.lazy import tf
from uio2.tasks.task import DRAW_PIXELS, Media, Record, Setting, Task, patch_noise
from uio2.tasks.text_family import named


class VideoTask(Task):
    """A task family about the clip of a record; clips without a frame are passed over."""

    dataset = "video"
    media_fields = ("key", "frames", "audio")
    takes = ("image", "image_history", "audio", "audio_history")

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del item
        recipe = setting.recipe
        count = recipe.num_frames + 1 if "image_history" in recipe.input_modalities else 1
        chosen = video.spread(tf.shape(record["frames"])[0], count=count)
        frames = video.decode_frames(tf.gather(record["frames"], chosen))
        features, placement = video.features(frames, recipe=recipe)
        features |= patch_noise(recipe, draws[DRAW_PIXELS])
        if {"audio", "audio_history"} & set(recipe.input_modalities):
            features |= clip_features(_samples(record["audio"]), recipe=recipe)
        number, name = named(record["key"])
        return Media(features, number, name, placement.info(), tf.zeros(4))


def _samples(data: tf.Tensor) -> tf.Tensor:
    """float32 [n] of WAV bytes; none for no bytes."""
    return tf.cond(tf.strings.length(data) > 0, lambda: audio.decode(data), lambda: tf.zeros([0]))


def where_seen(record: Record, usable: tf.Tensor) -> tf.Tensor:
    """int32 [n]: places that a bool vector marks; none where the record has no frame."""
    return tf.cast(tf.where(usable & (tf.size(record["frames"]) > 0))[:, 0], tf.int32)
