"""Text to speech: a transcript is asked for, its recording is the answer."""

from __future__ import annotations

from uio2.tasks import audio
from uio2.tasks.audio_family import CODE, SoundingTask, sounding_segments
from uio2.tasks.lazy import tf
from uio2.tasks.task import Record, Setting, Texts, clean


class TextToSpeech(SoundingTask):
    """One example per recording with a transcript that fits into one segment of 4.08 s.

    Of a longer one only the beginning could be made, and which words belong to it is not known: the model would learn
    to swallow the ends of sentences.
    """

    name = "text_to_speech"
    about = "say a text"
    dataset = "speech"
    prompts = "text_to_speech"
    fields = ("transcript", "audio")
    score = ""

    def items(self, record: Record) -> tf.Tensor:
        fits = tf.size(audio.decode_if_readable(record["audio"])) <= audio.SEGMENT_SAMPLES
        usable = fits & (tf.strings.length(clean(record["transcript"])) > 0)
        return sounding_segments(record["audio"], every=CODE)[: tf.cast(usable, tf.int32)]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        transcript = clean(record["transcript"])
        return Texts({"text": transcript}, tf.constant(""), transcript[None], tf.cast(item, tf.int64))


TASKS = (TextToSpeech(),)
