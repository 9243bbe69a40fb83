"""Segmentation: the mask of one object, given its box and class, as a picture: white on black."""

from __future__ import annotations

import dataclasses
from typing import cast

from uio2.tasks import boxes, image, masks
from uio2.tasks.box_list import class_names
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Media, Record, Setting, Task, Texts, see

_INSIDE = 127


class Segmentation(Task):
    """One example per object that is not a crowd and has a box and a mask.

    Truth: `mask`, a PNG of the source image's size, 255 inside; `target_info` float32 [11], the placement (as
    `meta/image_info`) of the answer, by which it is brought back to that size.
    """

    name = "segmentation_coco_2017"
    about = "paint the mask of an object"
    dataset = "coco"
    prompts = "segmentation"
    fields = ("objects/bbox", "objects/id", "objects/is_crowd", "objects/label", "objects/mask")
    makes = "image"
    score = "segmentation"
    has_box = True

    def items(self, record: Record) -> tf.Tensor:
        objects = record["objects"]
        masked = tf.strings.length(objects["mask"]) > 0
        usable = boxes.has_area(boxes.inside(objects["bbox"])) & ~objects["is_crowd"] & masked
        return tf.cast(tf.where(usable)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        return self.items(record)[: recipe.max_objects]

    def box(self, record: Record, item: tf.Tensor) -> tf.Tensor:
        return boxes.inside(record["objects"]["bbox"][item])

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        recipe, data = setting.recipe, record["objects"]["mask"][item]
        seen = see(record, box=self.box(record, item), draws=draws, setting=setting)
        mask = tf.io.decode_png(data, channels=1)[..., 0] > _INSIDE
        found = {
            "image_targets": masks.to_target(mask, seen.target, size=recipe.image_target_size),
            "image_targets_mask": image.pixel_mask(seen.target, size=recipe.image_target_size),
        }
        truth = {"mask": data, "target_info": seen.target.info()}
        return dataclasses.replace(seen.media, features={**seen.media.features, **found}, truth=truth)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        objects = record["objects"]
        values = {"box": cast(tf.Tensor, box_text), "label": class_names(setting)[objects["label"][item]]}
        return Texts(values, tf.constant(""), tf.zeros([0], tf.string), objects["id"][item])


TASKS = (Segmentation(),)
