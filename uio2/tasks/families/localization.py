"""Localisation: the boxes of all objects of one class that is asked for."""

from __future__ import annotations

from typing import cast

from uio2.tasks.box_list import class_names, list_media, usable_objects
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Media, Record, Setting, Task, Texts


class Localization(Task):
    """One example per class that an image has objects of, crowds not counted.

    Truth: `boxes` float32 [n, 4] of the class, whether or not the target has room for them.
    """

    name = "localization_coco_2017"
    about = "find all objects of a class"
    dataset = "coco"
    prompts = "localization"
    fields = ("objects/bbox", "objects/is_crowd", "objects/label")
    score = "localization"

    def items(self, record: Record) -> tf.Tensor:
        """Classes, in the order of their first object."""
        labels = tf.gather(record["objects"]["label"], usable_objects(record))
        return tf.cast(tf.unique(labels)[0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        return self.items(record)[: recipe.max_objects]

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        rows = usable_objects(record)
        labels = tf.cast(tf.gather(record["objects"]["label"], rows), tf.int32)
        return list_media(record, tf.boolean_mask(rows, labels == item), labels=None, draws=draws, setting=setting)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        target = cast(tf.Tensor, box_text)
        return Texts({"label": class_names(setting)[item]}, target, target[None], tf.cast(item, tf.int64))


TASKS = (Localization(),)
