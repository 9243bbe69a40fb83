"""What captioning of pictures, clips of sound and videos shares: any of a record's captions in training; all of them
count in evaluation. A record without captions has no example.
"""

from __future__ import annotations

from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Record, Setting, Task, Texts, clean


class CaptionTask(Task):
    """A task family about the captions of a record; what they describe is its `media`."""

    score = "caption"

    def captions(self, record: Record) -> tf.Tensor:
        """string [n]: the record's captions, of which some may be empty."""
        return clean(record["captions"])

    def items(self, record: Record) -> tf.Tensor:
        return tf.cast(tf.where(tf.strings.length(self.captions(record)) > 0)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        captions = self.captions(record)
        return Texts({}, captions[item], tf.gather(captions, self.items(record)), tf.constant(0, tf.int64))
