"""Depth estimation: how far away each pixel is, as a picture: white is at the camera, black 10 m and more."""

from __future__ import annotations

import dataclasses

from uio2.tasks import picture
from uio2.tasks.lazy import tf
from uio2.tasks.task import Media, Record, Setting, Task, Texts, see

FARTHEST_MM = 10_000


class DepthEstimation(Task):
    """One example per image with a depth map that measured something; what it did not measure is not learned.

    Codes count where half of their pixels were measured: a sparse map (a laser's lines) has to be filled in first.

    Truth: `depth`, a PNG of 16 bits, millimetres, 0 unknown; `target_info` float32 [11], the placement of the answer.
    """

    name = "depth_estimation"
    about = "paint how far away things are"
    dataset = "depth"
    prompts = "depth_estimation"
    fields = ("depth",)
    makes = "image"
    score = "depth"

    def items(self, record: Record) -> tf.Tensor:
        measured = tf.reduce_any(_millimetres(record) > 0)
        return tf.zeros([tf.cast(measured, tf.int32)], tf.int32)

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del item
        seen = see(record, draws=draws, setting=setting)
        depth = _millimetres(record)
        near = 1 - tf.minimum(tf.cast(depth, tf.float32) / FARTHEST_MM, 1)
        values = tf.repeat(near[..., None], 3, axis=-1)
        target = picture.map_target(values, depth > 0, seen.target, recipe=setting.recipe)
        truth = {"depth": record["depth"], "target_info": seen.target.info()}
        return dataclasses.replace(seen.media, features={**seen.media.features, **target}, truth=truth)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        return Texts({}, tf.constant(""), tf.zeros([0], tf.string), tf.constant(0, tf.int64))


def _millimetres(record: Record) -> tf.Tensor:
    """int32 [h, w]; [0, 0] where there is no map."""
    return tf.cast(picture.decode_map(record["depth"], channels=1, dtype=tf.uint16)[..., 0], tf.int32)


TASKS = (DepthEstimation(),)
