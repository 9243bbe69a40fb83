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

    def captions(self, record: Record) -> tf.Tensor:
        """string [n]."""
        return clean(record["captions"]["text"])

    def items(self, record: Record) -> tf.Tensor:
        return tf.cast(tf.where(tf.strings.length(self.captions(record)) > 0)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        captions = self.captions(record)
        everything = tf.gather(captions, self.items(record))
        return Texts({}, captions[item], everything, tf.constant(0, tf.int64))


class ImageTextCaptioning(Captioning):
    """The same of images with texts of any origin."""

    name = "image_caption"
    dataset = "image_text"
    fields = ("texts",)

    def captions(self, record: Record) -> tf.Tensor:
        return clean(record["texts"])


TASKS = (Captioning(), ImageTextCaptioning())
