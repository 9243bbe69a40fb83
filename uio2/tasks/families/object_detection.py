"""Object detection: every object of an image as four location pieces and its class, one after another."""

from __future__ import annotations

import dataclasses
from typing import cast

from uio2.tasks import boxes
from uio2.tasks.box_list import class_names, list_media, usable_objects
from uio2.tasks.lazy import tf
from uio2.tasks.task import Media, Record, Setting, Task, Texts


class ObjectDetection(Task):
    """One example per image with an object that is not a crowd.

    Truth: `boxes` float32 [n, 4] and `labels` string [n] of all objects, whether or not the target has room for them,
    `areas` int64 [n]; `crowd_boxes` [m, 4] and `crowd_labels` [m], which count neither for nor against an answer.
    """

    name = "object_detection_coco_2017"
    about = "find and name all objects"
    dataset = "coco"
    prompts = "object_detection"
    fields = ("objects/area", "objects/bbox", "objects/is_crowd", "objects/label")
    score = "detection"

    def items(self, record: Record) -> tf.Tensor:
        return tf.zeros([tf.cast(tf.size(usable_objects(record)) > 0, tf.int32)], tf.int32)

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del item
        rows, objects = usable_objects(record), record["objects"]
        labels = tf.gather(objects["label"], rows)
        media = list_media(record, rows, labels=labels, draws=draws, setting=setting)
        crowds = _crowds(record)
        truth = {
            "labels": tf.gather(class_names(setting), labels),
            "areas": tf.gather(objects["area"], rows),
            "crowd_boxes": boxes.inside(tf.gather(objects["bbox"], crowds)) * tf.tile(media.image_info[3:5], [2]),
            "crowd_labels": tf.gather(class_names(setting), tf.gather(objects["label"], crowds)),
        }
        return dataclasses.replace(media, truth={**media.truth, **truth})

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        target = cast(tf.Tensor, box_text)
        return Texts({}, target, target[None], tf.constant(0, tf.int64))


def _crowds(record: Record) -> tf.Tensor:
    objects = record["objects"]
    return tf.where(boxes.has_area(boxes.inside(objects["bbox"])) & objects["is_crowd"])[:, 0]


TASKS = (ObjectDetection(),)
