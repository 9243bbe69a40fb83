"""Speech to text: the words of a recording."""

from __future__ import annotations

from uio2.tasks import audio
from uio2.tasks.audio_family import AudioTask, clip_features, most_segments, sound_media
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Media, Record, Setting, Texts, clean


class SpeechToText(AudioTask):
    """One example per recording with a transcript, if all of it is heard.

    One longer than the segments of the recipe (`RegisterSpec.num_audio_segments` + 1, of 4.08 s) is passed over: its
    transcript would ask for words behind the end of what is heard. For the same reason a rest is a segment of its own
    however short it is, where other tasks leave out up to 2.14 s.
    """

    name = "speech_to_text"
    about = "write down what is said"
    dataset = "speech"
    prompts = "speech_to_text"
    fields = ("transcript", "audio")
    score = "wer"

    def items(self, record: Record) -> tf.Tensor:
        return tf.zeros([tf.cast(tf.strings.length(clean(record["transcript"])) > 0, tf.int32)], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        fits = tf.size(audio.decode_if_readable(record["audio"])) <= most_segments(recipe) * audio.SEGMENT_SAMPLES
        return self.items(record)[: tf.cast(fits, tf.int32)]

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del item, draws
        samples = audio.decode(record["audio"])
        whole = tf.pad(samples, [[0, tf.math.floormod(-tf.size(samples), audio.SEGMENT_SAMPLES)]])
        return sound_media(record, clip_features(whole, recipe=setting.recipe))

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        transcript = clean(record["transcript"])
        return Texts({}, transcript, transcript[None], tf.constant(0, tf.int64))


TASKS = (SpeechToText(),)
