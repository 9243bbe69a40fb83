"""Audio captioning: any of a clip's captions in training; all of them count in evaluation."""

from __future__ import annotations

from uio2.tasks.audio_family import AudioTask
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Record, Setting, Texts, clean


class AudioCaptioning(AudioTask):
    """One example per clip; clips without captions are passed over."""

    name = "audio_caption"
    about = "describe a sound"
    prompts = "audio_captioning"
    fields = ("captions",)
    score = "caption"

    def items(self, record: Record) -> tf.Tensor:
        return tf.cast(tf.where(tf.strings.length(clean(record["captions"])) > 0)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        captions = clean(record["captions"])
        everything = tf.gather(captions, self.items(record))
        return Texts({}, captions[item], everything, tf.constant(0, tf.int64))


TASKS = (AudioCaptioning(),)
