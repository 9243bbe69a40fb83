"""Speech to text: the words of a recording."""

from __future__ import annotations

from uio2.tasks.audio_family import AudioTask
from uio2.tasks.lazy import tf
from uio2.tasks.task import Record, Setting, Texts, clean


class SpeechToText(AudioTask):
    """One example per recording with a transcript.

    What a recording holds beyond `RegisterSpec.num_audio_segments` + 1 segments is not heard, though its words are
    asked for: make the recipe as long as the recordings.
    """

    name = "speech_to_text"
    about = "write down what is said"
    dataset = "speech"
    prompts = "speech_to_text"
    fields = ("transcript",)
    score = "wer"

    def items(self, record: Record) -> tf.Tensor:
        return tf.zeros([tf.cast(tf.strings.length(clean(record["transcript"])) > 0, tf.int32)], tf.int32)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        transcript = clean(record["transcript"])
        return Texts({}, transcript, transcript[None], tf.constant(0, tf.int64))


TASKS = (SpeechToText(),)
