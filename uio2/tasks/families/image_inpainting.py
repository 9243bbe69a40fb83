"""Inpainting: an image with one object's box blacked out becomes the whole image; box and class are told."""

from __future__ import annotations

import dataclasses
from typing import cast

from uio2.tasks import boxes, image, picture
from uio2.tasks.box_list import class_names, usable_objects
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Media, Record, Setting, Task, Texts, see


class ImageInpainting(Task):
    """One example per object; in evaluation the first of an image.

    Only codes that touch the hidden box count in the loss: the others could be copied. The same codes are the task
    mask: what the task hid. Truth: `target_info` float32 [11], the placement of the answer.
    """

    name = "image_inpainting_coco"
    about = "paint what is hidden in a picture"
    dataset = "coco"
    prompts = "image_inpainting"
    fields = ("objects/bbox", "objects/id", "objects/is_crowd", "objects/label")
    makes = "image"
    score = "image"
    has_box = True

    def items(self, record: Record) -> tf.Tensor:
        return usable_objects(record)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def box(self, record: Record, item: tf.Tensor) -> tf.Tensor:
        return boxes.inside(record["objects"]["bbox"][item])

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        recipe, box = setting.recipe, self.box(record, item)
        seen = see(record, box=box, draws=draws, setting=setting)

        def hidden(placement: image.Placement, size: tuple[int, int]) -> tf.Tensor:
            return picture.box_pixels(boxes.to_canvas(box, placement, size=size), size=size)

        shown = tf.cast(~hidden(seen.placement, recipe.image_size), tf.float32)[..., None]
        target = picture.target(seen.pixels, seen.target, recipe=recipe)
        # What is hidden may reach beyond a random crop onto the padding, where there is nothing to learn.
        asked = hidden(seen.target, recipe.image_target_size) & target["image_targets_mask"]
        codes = picture.code_share(tf.cast(asked, tf.float32), recipe=recipe) > 0
        features = {**seen.media.features, **target}
        features["image_inputs"] *= shown
        features |= {"image_targets_loss_mask": codes, "image_targets_task_mask": codes}
        return dataclasses.replace(seen.media, features=features, truth={"target_info": seen.target.info()})

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        objects = record["objects"]
        values = {"box": cast(tf.Tensor, box_text), "label": class_names(setting)[objects["label"][item]]}
        return Texts(values, tf.constant(""), tf.zeros([0], tf.string), objects["id"][item])


TASKS = (ImageInpainting(),)
