"""Referring expressions: the box, as four location pieces, of what an expression describes."""

from __future__ import annotations

from typing import cast

from uio2.tasks import boxes
from uio2.tasks.lazy import tf
from uio2.tasks.task import Record, Setting, Task, Texts, clean


class ReferringExpression(Task):
    """One example per expression; each object of a record has any number of them."""

    name = "refcoco_unc"
    about = "find what an expression describes"
    dataset = "refcoco"
    prompts = "referring_expression"
    fields = ("objects/bbox", "objects/refexp/raw", "objects/refexp/refexp_id")
    score = "refexp"
    has_box = True

    def _owner(self, record: Record) -> tf.Tensor:
        """int [n]: for each expression of the record, the row of its object."""
        return record["objects"]["refexp"]["raw"].value_rowids()

    def items(self, record: Record) -> tf.Tensor:
        expressions = record["objects"]["refexp"]["raw"].flat_values
        located = tf.gather(boxes.on_image(record["objects"]["bbox"]), self._owner(record))
        usable = located & (tf.strings.length(clean(expressions)) > 0)
        return tf.cast(tf.where(usable)[:, 0], tf.int32)

    def box(self, record: Record, item: tf.Tensor) -> tf.Tensor:
        return record["objects"]["bbox"][self._owner(record)[item]]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        refexp = record["objects"]["refexp"]
        expression = tf.strings.lower(clean(refexp["raw"].flat_values[item]), encoding="utf-8")
        target = cast(tf.Tensor, box_text)  # there, since `has_box`
        return Texts({"expression": expression}, target, target[None], refexp["refexp_id"].flat_values[item])


TASKS = (
    ReferringExpression(),
    ReferringExpression(name="refcoco_plus_unc", dataset="refcoco_plus"),
    ReferringExpression(name="refcocog_google", dataset="refcocog"),
)
