"""Stage 1 for tasks that answer with a list of boxes: which are listed, in what order, and where the list ends.

The order is drawn in training (nothing in an image says which object comes first) and as stored in evaluation. A list
longer than `RegisterSpec.text_targets` ends behind its last whole box: a box cut in two would teach a wrong answer.
"""

from __future__ import annotations

import dataclasses

from uio2.tasks import boxes
from uio2.tasks.image import Placement
from uio2.tasks.lazy import tf
from uio2.tasks.task import DRAW_TARGET, Media, Record, Setting, see

LOCATIONS = 4


def usable_objects(record: Record) -> tf.Tensor:
    """int32 [n]: objects of a record that are not crowds and have a box in the image."""
    objects = record["objects"]
    usable = boxes.has_area(boxes.inside(objects["bbox"])) & ~objects["is_crowd"]
    return tf.cast(tf.where(usable)[:, 0], tf.int32)


def class_names(setting: Setting) -> tf.Tensor:
    """string [c]: the dataset's classes as tasks write them."""
    return tf.constant(_names(setting))


def _names(setting: Setting) -> list[str]:
    return [name.lower() for name in setting.classes]


def list_media(record: Record, rows: tf.Tensor, *, labels: tf.Tensor | None, draws: tf.Tensor,
               setting: Setting) -> Media:  # fmt: skip
    """The image with `box_text` the list of these objects, and `truth/boxes` float32 [n, 4] in source pixels.

    Args:
      record: with `objects`.
      rows: int32 [n], at least one: the objects.
      labels: int [n], their classes where the list names them.
      draws: of the example.
      setting: classes, canvas, longest text.
    """
    size = setting.recipe.image_size
    found = boxes.inside(tf.gather(record["objects"]["bbox"], rows))

    def keeps(placement: Placement) -> tf.Tensor:
        return tf.reduce_any(boxes.has_area(boxes.to_canvas(found, placement, size=size)))

    seen = see(record, draws=draws, setting=setting, keeps=keeps)
    placed, kept = boxes.usable(found, seen.placement, size=size)
    order = tf.range(tf.size(kept))
    if setting.training:
        order = boxes.shuffle(tf.size(kept), draws[DRAW_TARGET])
    listed = None if labels is None else tf.gather(labels, tf.gather(kept, order))
    lengths = tf.fill(tf.shape(order), LOCATIONS)
    if listed is not None:
        lengths += tf.gather(tf.constant([*map(setting.tokens, _names(setting))]), listed)
    count = boxes.fitting(lengths, limit=setting.recipe.text_targets)
    texts = boxes.to_text(tf.gather(placed, order[:count]), size=size)
    names = None if listed is None else tf.gather(class_names(setting), listed[:count])
    truth = {"boxes": found * tf.tile(seen.placement.source, [2])}
    return dataclasses.replace(seen.media, box_text=boxes.list_text(texts, labels=names), truth=truth)
