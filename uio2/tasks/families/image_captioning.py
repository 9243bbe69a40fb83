"""Image captioning: any of an image's captions in training; all of them count in evaluation."""

from __future__ import annotations

from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Record, Setting, Task, Texts, clean


class Captioning(Task):
    """One example per image; images without captions are passed over."""

    name = "image_caption_coco_2017"
    about = "describe a picture"
    dataset = "coco"
    prompts = "image_captioning"
    fields = ("captions/text",)
    score = "caption"

    def items(self, record: Record) -> tf.Tensor:
        usable = tf.strings.length(clean(record["captions"]["text"])) > 0
        return tf.cast(tf.where(usable)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        captions = clean(record["captions"]["text"])
        everything = tf.gather(captions, self.items(record))
        return Texts({}, captions[item], everything, tf.constant(0, tf.int64))


TASKS = (Captioning(),)
