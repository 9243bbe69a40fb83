"""A family of the tests' own, found as any other once its folder is among those looked at: depth as a small picture."""

from __future__ import annotations

import dataclasses

from uio2.tasks import image
from uio2.tasks.lazy import tf
from uio2.tasks.task import Media, Record, Setting, Task, Texts, image_media


class PaintedDepth(Task):
    """One example per image; white is near."""

    name = "painted_depth"
    dataset = "depth"
    fields = ("depth",)
    makes = "image"
    score = "depth"

    def items(self, record: Record) -> tf.Tensor:
        return tf.zeros([tf.cast(tf.strings.length(record["depth"]) > 0, tf.int32)], tf.int32)

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        found = image_media(record, None, draws=draws, setting=setting)
        size = setting.recipe.image_target_size
        placement = image.place(found.image_info[3:5], size=size)
        depth = tf.cast(tf.io.decode_png(record["depth"], channels=1, dtype=tf.uint16), tf.float32) / 10_000
        target = {
            "image_targets": image.render(tf.repeat(1 - depth, 3, axis=-1), placement, size=size),
            "image_targets_mask": image.pixel_mask(placement, size=size),
        }
        return dataclasses.replace(found, features={**found.features, **target})

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        size = tf.cast(tf.shape(tf.io.decode_png(record["depth"], dtype=tf.uint16))[:2], tf.float32)
        truth = {
            "depth": record["depth"],
            "target_info": image.place(size, size=setting.recipe.image_target_size).info(),
        }
        prompt = tf.constant("how far is everything?")
        return Texts({"prompt": prompt}, tf.constant(""), tf.zeros([0], tf.string), tf.constant(0, tf.int64),
                     truth=truth)  # fmt: skip


TASKS = (PaintedDepth(),)
