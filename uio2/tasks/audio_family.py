"""Stage 1 for tasks about one clip: its last segment is the audio input, those before it are the audio history."""

from __future__ import annotations

from uio2.tasks import audio
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Media, Record, Setting, Task


class AudioTask(Task):
    """A task family about the clip of a record (`beam_jobs.audio_captions`)."""

    dataset = "audio"
    media_fields = ("audio", "key")
    takes = ("audio", "audio_history")

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del item, draws
        # Only that it is unique matters; the record's own name is a text.
        number = tf.strings.to_hash_bucket_fast(record["key"], 2**62)
        features = clip_features(record["audio"], recipe=setting.recipe)
        return Media(features, number, record["key"], tf.zeros(11), tf.zeros(4))


def clip_features(data: tf.Tensor, *, recipe: RegisterSpec) -> dict[str, tf.Tensor]:
    """Stage 1 keys of a clip (WAV bytes).

    With a history the clip may be `num_audio_segments` + 1 segments long, without one a single segment; what comes
    later is cut off before it costs a spectrogram.
    """
    with_history = "audio_history" in recipe.input_modalities
    most = recipe.num_audio_segments + 1 if with_history else 1
    values, mask = audio.log_mel(audio.cut(audio.decode(data), most=most))
    found = {"audio_inputs": values[-1], "audio_inputs_mask": mask[-1]}
    if with_history:
        found |= {"audio_history_inputs": values[:-1], "audio_history_inputs_mask": mask[:-1]}
    return found
