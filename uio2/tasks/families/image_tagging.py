"""Image tagging: the one name that fits a picture: any of its labels in training, the first in evaluation."""

from __future__ import annotations

from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Record, Setting, Task, Texts, clean


class ImageTagging(Task):
    """One example per image with a label; every label counts as an accepted answer.

    Truth: `labels` string [n].
    """

    name = "image_tagging"
    about = "name what a picture shows"
    dataset = "image_text"
    prompts = "image_tagging"
    fields = ("labels",)
    score = "classification"

    def items(self, record: Record) -> tf.Tensor:
        return tf.cast(tf.where(tf.strings.length(clean(record["labels"])) > 0)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        labels = tf.strings.lower(clean(record["labels"]), encoding="utf-8")
        every = tf.gather(labels, self.items(record))
        return Texts({}, labels[item], every, tf.constant(0, tf.int64), truth={"labels": every})


TASKS = (ImageTagging(),)
