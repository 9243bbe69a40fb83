"""Keypoints: the parts of one person whose box is given, as `y x name` for each part that is annotated."""

from __future__ import annotations

import dataclasses
from typing import cast

from uio2.tasks import boxes, keypoints
from uio2.tasks.image import Placement
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Media, Record, Setting, Task, Texts, see


class Keypoints(Task):
    """One example per person with a box and at least one annotated part; hidden parts that are annotated count.

    Truth: `keypoints` float32 [1, 17, 3] of the person, x, y in source pixels and COCO's visibility; `areas` int64 [1],
    of the person's mask.
    """

    name = "keypoints_coco_2017"
    about = "find the parts of a person in a box"
    dataset = "coco"
    prompts = "keypoints"
    fields = ("objects/area", "objects/bbox", "objects/id", "objects/is_crowd", "objects/keypoints")
    score = "keypoints"
    has_box = True

    def items(self, record: Record) -> tf.Tensor:
        objects = record["objects"]
        annotated = tf.reduce_any(objects["keypoints"][..., 2] > 0, axis=1)
        usable = boxes.has_area(boxes.inside(objects["bbox"])) & ~objects["is_crowd"] & annotated
        return tf.cast(tf.where(usable)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        return self.items(record)[: recipe.max_objects]

    def box(self, record: Record, item: tf.Tensor) -> tf.Tensor:
        return boxes.inside(record["objects"]["bbox"][item])

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        size, person = setting.recipe.image_size, record["objects"]["keypoints"][item]
        box = self.box(record, item)

        def parts(placement: Placement) -> tuple[tf.Tensor, tf.Tensor]:
            placed, inside = keypoints.to_canvas(person[:, 1::-1] / placement.source, placement, size=size)
            return placed, inside & (person[:, 2] > 0)

        def keeps(placement: Placement) -> tf.Tensor:
            shown = boxes.has_area(boxes.to_canvas(box, placement, size=size))
            return shown & tf.reduce_any(parts(placement)[1])

        seen = see(record, box=box, draws=draws, setting=setting, keeps=keeps)
        placed, found = parts(seen.placement)
        limit = setting.recipe.text_targets
        answer = keypoints.to_text(placed, found, size=size, tokens=setting.tokens, limit=limit)
        texts = tf.stack([cast(tf.Tensor, seen.media.box_text), answer])
        truth = {"keypoints": person[None], "areas": record["objects"]["area"][item][None]}
        return dataclasses.replace(seen.media, box_text=texts, truth=truth)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        box, target = tf.unstack(cast(tf.Tensor, box_text), num=2)
        return Texts({"box": box}, target, target[None], record["objects"]["id"][item])


TASKS = (Keypoints(),)
