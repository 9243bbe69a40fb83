"""Region captioning: a phrase about what a given box of the image shows."""

from __future__ import annotations

from typing import cast

from uio2.tasks import boxes
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Record, Setting, Task, Texts, clean


class RegionCaptioning(Task):
    """One example per region with a phrase and a box that has an area."""

    name = "region_captioning"
    about = "describe what is in a box"
    dataset = "regions"
    prompts = "region_captioning"
    fields = ("regions/bbox", "regions/id", "regions/phrase")
    score = "caption"
    has_box = True

    def items(self, record: Record) -> tf.Tensor:
        regions = record["regions"]
        located = boxes.has_area(boxes.inside(regions["bbox"]))
        usable = located & (tf.strings.length(clean(regions["phrase"])) > 0)
        return tf.cast(tf.where(usable)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        return self.items(record)[: recipe.max_objects]

    def box(self, record: Record, item: tf.Tensor) -> tf.Tensor:
        return boxes.inside(record["regions"]["bbox"][item])

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        regions = record["regions"]
        phrase = clean(regions["phrase"][item])
        return Texts({"box": cast(tf.Tensor, box_text)}, phrase, phrase[None], regions["id"][item])


TASKS = (RegionCaptioning(),)
