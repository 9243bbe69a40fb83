"""Stage 1 for tasks about one clip of sound, as what is heard or as what is to be made.

A clip that is heard: its last segment is the audio input, those before it are the audio history. A clip that is made
is one segment, since the model's audio target is one. Segments of digital silence are never made: such a target would
teach nothing, so they are not among a record's items.
"""

from __future__ import annotations

import numpy as np

from uio2.tasks import audio
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Media, Record, Setting, Task
from uio2.tasks.text_family import named


class AudioTask(Task):
    """A task family about the clip of a record (`beam_jobs.audio_captions`)."""

    dataset = "audio"
    media_fields = ("audio", "key")
    takes = ("audio", "audio_history")

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del item, draws
        features = clip_features(audio.decode(record["audio"]), recipe=setting.recipe)
        return sound_media(record, features)


# Side of a code of the published audio codec, frames.
CODE = 8


class SoundingTask(Task):
    """A task family that asks for a segment of a record's clip; its items are segments that sound."""

    dataset = "audio"
    media_fields = ("audio", "key")
    takes: tuple[str, ...] = ()
    makes = "audio"

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del draws, setting
        values, mask = audio.log_mel(audio.cut(audio.decode(record["audio"]))[item][None])
        return sound_media(record, {"audio_targets": values[0], "audio_targets_mask": mask[0]})


def sound_media(record: Record, features: dict[str, tf.Tensor]) -> Media:
    """Features of a record that is named by its `key`."""
    number, name = named(record["key"])
    return Media(features, number, name, tf.zeros(11), tf.zeros(4))


def sounding_segments(data: tf.Tensor, *, every: int) -> tf.Tensor:
    """int32 [n]: segments of a clip (WAV bytes) of which some patch is not masked; none of bytes that are no clip.

    Digital silence is masked, and the frame at the centre of a patch decides for all of it, so it takes a sample other
    than 0 in the window of such a frame: a clip of one sample is as silent as none.

    Args:
      data: WAV bytes.
      every: frames of a patch.
    """
    segments = audio.cut(audio.decode_if_readable(data))
    sounds = tf.pad(tf.cast(segments != 0, tf.int32), [[0, 0], [audio.WINDOW // 2] * 2])
    starts = np.arange(every // 2, audio.SPECTROGRAM[0], every) * audio.HOP
    # The first and the last weight of a window are 0.
    before = tf.cumsum(sounds, axis=1)
    heard = tf.gather(before, starts + audio.WINDOW - 2, axis=1) > tf.gather(before, starts, axis=1)
    return tf.cast(tf.where(tf.reduce_any(heard, axis=1))[:, 0], tf.int32)


def most_segments(recipe: RegisterSpec) -> int:
    """How many segments of a clip are heard."""
    return recipe.num_audio_segments + 1 if "audio_history" in recipe.input_modalities else 1


def clip_features(samples: tf.Tensor, *, recipe: RegisterSpec) -> dict[str, tf.Tensor]:
    """Stage 1 keys of a clip, float32 [n] at 16 kHz.

    With a history the clip may be `num_audio_segments` + 1 segments long, without one a single segment; what comes
    later is cut off before it costs a spectrogram.
    """
    values, mask = audio.log_mel(audio.cut(samples, most=most_segments(recipe)))
    found = {"audio_inputs": values[-1], "audio_inputs_mask": mask[-1]}
    if "audio_history" in recipe.input_modalities:
        found |= {"audio_history_inputs": values[:-1], "audio_history_inputs_mask": mask[:-1]}
    return found
