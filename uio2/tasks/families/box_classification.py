"""Box classification: the class of what a given box holds."""

from __future__ import annotations

from uio2.tasks import boxes
from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Record, Setting, Task, Texts


class BoxClassification(Task):
    """One example per object that is not a crowd and whose box has an area."""

    name = "box_classification_coco_2017"
    about = "name what is in a box"
    dataset = "coco"
    prompts = "box_classification"
    fields = ("objects/bbox", "objects/id", "objects/is_crowd", "objects/label")
    score = "box_classification"
    has_box = True

    def items(self, record: Record) -> tf.Tensor:
        objects = record["objects"]
        usable = boxes.on_image(objects["bbox"]) & ~objects["is_crowd"]
        return tf.cast(tf.where(usable)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        return self.items(record)[: recipe.max_objects]

    def box(self, record: Record, item: tf.Tensor) -> tf.Tensor:
        return record["objects"]["bbox"][item]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        names = tf.constant([name.lower() for name in setting.classes])
        label = names[record["objects"]["label"][item]]
        return Texts({"box": box_text}, label, label[None], record["objects"]["id"][item])


TASKS = (BoxClassification(),)
