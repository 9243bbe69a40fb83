"""Surface normals: which way each pixel's surface faces, as colours: (n + 1) / 2 for x, y and z."""

from __future__ import annotations

import dataclasses

from uio2.tasks import picture
from uio2.tasks.lazy import tf
from uio2.tasks.task import Media, Record, Setting, Task, Texts, see

UNKNOWN = 128


class SurfaceNormals(Task):
    """One example per image with a map of normals that measured something; the rest of the map is not learned.

    Truth: `normals`, a PNG of colours, (128, 128, 128) unknown; `target_info` float32 [11], the placement of the
    answer.
    """

    name = "surface_normals"
    about = "paint which way surfaces face"
    dataset = "normals"
    prompts = "surface_normals"
    fields = ("normals",)
    makes = "image"
    score = "normals"

    def items(self, record: Record) -> tf.Tensor:
        measured = tf.reduce_any(_colours(record) != UNKNOWN)
        return tf.zeros([tf.cast(measured, tf.int32)], tf.int32)

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del item
        seen = see(record, draws=draws, setting=setting)
        colours = _colours(record)
        known = tf.reduce_any(colours != UNKNOWN, axis=-1)
        values = tf.cast(colours, tf.float32) / 255
        target = picture.map_target(values, known, seen.target, recipe=setting.recipe)
        truth = {"normals": record["normals"], "target_info": seen.target.info()}
        return dataclasses.replace(seen.media, features={**seen.media.features, **target}, truth=truth)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        return Texts({}, tf.constant(""), tf.zeros([0], tf.string), tf.constant(0, tf.int64))


def _colours(record: Record) -> tf.Tensor:
    """uint8 [h, w, 3]; [0, 0, 3] where there is no map."""
    return picture.decode_map(record["normals"], channels=3)


TASKS = (SurfaceNormals(),)
