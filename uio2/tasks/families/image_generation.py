"""Image generation: a picture from its caption."""

from __future__ import annotations

from uio2.tasks import image, picture
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Media, Record, Setting, Task, Texts, clean


class ImageGeneration(Task):
    """One example per image with a caption: any of them in training, the first in evaluation.

    The target is the whole image also in augmented training: the caption describes all of it.
    Truth: `target_info` float32 [11], the placement of the answer.
    """

    name = "image_generation_coco_2017"
    about = "paint a picture of a description"
    dataset = "coco"
    prompts = "image_generation"
    fields = ("captions/text",)
    takes = ()
    makes = "image"
    score = "image"

    def captions(self, record: Record) -> tf.Tensor:
        """string [n]."""
        return clean(record["captions"]["text"])

    def items(self, record: Record) -> tf.Tensor:
        return tf.cast(tf.where(tf.strings.length(self.captions(record)) > 0)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del item, draws
        recipe = setting.recipe
        pixels = tf.io.decode_image(record["image"], channels=3, expand_animations=False)
        source = tf.cast(tf.shape(pixels)[:2], tf.float32)
        placement = image.place(source, size=recipe.image_target_size)
        features = picture.target(pixels, placement, recipe=recipe)
        number = tf.cast(record["image/id"], tf.int64)
        truth = {"target_info": placement.info()}
        return Media(features, number, tf.strings.as_string(number), tf.zeros(11), tf.zeros(4), truth=truth)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        values = {"caption": self.captions(record)[item]}
        return Texts(values, tf.constant(""), tf.zeros([0], tf.string), tf.constant(0, tf.int64))


class ImageTextGeneration(ImageGeneration):
    """The same from images with texts of any origin."""

    name = "image_generation"
    dataset = "image_text"
    fields = ("texts",)

    def captions(self, record: Record) -> tf.Tensor:
        return clean(record["texts"])


TASKS = (ImageGeneration(), ImageTextGeneration())
