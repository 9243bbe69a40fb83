"""Stage 1, shared by all task families: one stored record and a choice become one example.

A family (one small file each) says which things of a record can be asked about (`items`), where the box
is and what the texts are; this module does the rest. Nothing is drawn here: `draws`, eight numbers in
0..1 per example, arrive with the record, so the example is a function of (record, draws) and nothing else.

What stage 1 makes, for one example:
  text_inputs, text_targets   string
  image_inputs                float32 [H, W, 3] in 0..1 on the canvas
  image_inputs_mask           bool [H, W]
  meta/task, meta/example_id  string; the id is unique within the task
  meta/image_id               int64
  meta/image_info             float32 [11], see `uio2.tasks.image`
  meta/all_targets            string [n], every accepted target
  meta/box                    float32 [4], y1, x1, y2, x2 in source pixels; zeros where there is none
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from uio2.tasks import boxes, image
from uio2.tasks.prompts import Prompts, load_prompts, segments
from uio2.tasks.specs import RegisterSpec

PREFIX = "[Text] [S] "
NUM_DRAWS = 8
DRAW_ITEM, DRAW_PROMPT, DRAW_TARGET = 0, 1, 2
DRAW_PLACE = slice(3, 7)

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Texts:
    """What a family says about one item.

    Attributes:
      values: placeholder name -> string tensor, for the prompt.
      target: string scalar.
      all_targets: string [n].
      item_id: int64 scalar; with the image id it names the example.
    """

    values: Mapping[str, tf.Tensor]
    target: tf.Tensor
    all_targets: tf.Tensor
    item_id: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a task needs beyond the record.

    Attributes:
      recipe: the mixture's settings.
      classes: names of the dataset's object classes; empty where it has none.
      training: random item, prompt and placement; else the item asked for and the eval prompt.
    """

    recipe: RegisterSpec
    classes: tuple[str, ...] = ()
    training: bool = False


class Task(abc.ABC):
    """A task family.

    Attributes:
      name: its name in seqio.
      dataset: the input it reads, `coco` or `refcoco`.
      prompts: its prompt family.
      fields: paths of the record it needs, beside the image and its id.
      score: prefix of its metrics.
      has_box: whether an example is about one box.
    """

    name: str
    dataset: str
    prompts: str
    fields: tuple[str, ...]
    score: str
    has_box: bool = False

    @abc.abstractmethod
    def items(self, record: Record) -> tf.Tensor:
        """int32 [n]: indices of what can be asked about; empty where the record has nothing for this task."""

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        """int32 [m]: the items evaluation asks about; empty exactly where `items` is."""
        del recipe
        return self.items(record)

    def box(self, record: Record, item: tf.Tensor) -> tf.Tensor | None:
        """float32 [4]: the item's normalised box; None for tasks without one."""
        del record, item
        return None

    @abc.abstractmethod
    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        """The prompt's values and the targets of one item."""


class PromptTable:
    """Prompts as constants, rendered inside tf.data by two gathers and a join."""

    def __init__(self, prompts: Prompts) -> None:
        rows = [segments(p) for p in (*prompts.train, prompts.evaluation)]
        width = max(len(row) for row in rows)
        self._names = prompts.placeholders
        slots = {name: n for n, name in enumerate(prompts.placeholders)} | {None: len(prompts.placeholders)}
        padded = [[*row, *[("", None)] * (width - len(row))] for row in rows]
        self._literals = [[literal for literal, _ in row] for row in padded]
        self._slots = [[slots[name] for _, name in row] for row in padded]
        self.num_train = len(prompts.train)

    def render(self, index: tf.Tensor, values: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Prompt `index` (`num_train` is the eval prompt) with its placeholders filled."""
        arguments = tf.stack([*(values[name] for name in self._names), tf.constant("")])
        filled = tf.gather(arguments, tf.gather(tf.constant(self._slots), index))
        literals = tf.gather(tf.constant(self._literals), index)
        return tf.strings.reduce_join(tf.reshape(tf.stack([literals, filled], 1), [-1]))


def pick(values: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """The element of a non-empty vector that a number in 0..1 points at."""
    count = tf.shape(values)[0]
    index = tf.minimum(tf.cast(draw * tf.cast(count, tf.float32), tf.int32), count - 1)
    return values[index]


def clean(text: tf.Tensor) -> tf.Tensor:
    """Text with control characters as spaces and none at the ends."""
    return tf.strings.strip(tf.strings.regex_replace(text, r"\s+", " "))


def preprocessor(task: Task, *, setting: Setting, prompts: Prompts | None = None):
    """The stage 1 function of a task: `(record, item, draws) -> example`, to be mapped by tf.data.

    `item` counts into `eval_items` and is not used in training, where `draws` choose.
    """
    table = PromptTable(prompts or load_prompts(task.prompts))
    recipe = setting.recipe
    always_eval_prompt = not setting.training or recipe.prompt_set == "eval"

    def example(record: Record, item: tf.Tensor, draws: tf.Tensor) -> dict[str, tf.Tensor]:
        if setting.training:
            chosen = pick(task.items(record), draws[DRAW_ITEM])
        else:
            chosen = task.eval_items(record, recipe)[item]
        pixels = tf.io.decode_image(record["image"], channels=3, expand_animations=False)
        source = tf.cast(tf.shape(pixels)[:2], tf.float32)
        box = task.box(record, chosen)
        placement = _placement(source, box, draws, setting)
        box_text = None
        if box is not None:
            box_text = boxes.to_text(boxes.to_canvas(box, placement, size=recipe.image_size), size=recipe.image_size)
        texts = task.texts(record, chosen, box_text=box_text, draws=draws, setting=setting)
        number = table.num_train
        if not always_eval_prompt:
            number = tf.cast(draws[DRAW_PROMPT] * table.num_train, tf.int32)
        image_id = tf.cast(record["image/id"], tf.int64)
        id_parts = [tf.strings.as_string(image_id), tf.strings.as_string(tf.cast(texts.item_id, tf.int64))]
        return {
            "text_inputs": PREFIX + table.render(number, texts.values),
            "text_targets": texts.target,
            "image_inputs": image.render(pixels, placement, size=recipe.image_size),
            "image_inputs_mask": image.pixel_mask(placement, size=recipe.image_size),
            "meta/task": tf.constant(task.name),
            "meta/example_id": tf.strings.join(id_parts, "/"),
            "meta/image_id": image_id,
            "meta/image_info": tf.ensure_shape(placement.info(), [11]),
            "meta/all_targets": texts.all_targets,
            "meta/box": tf.zeros(4) if box is None else tf.reshape(box * tf.tile(source, [2]), [4]),
        }

    return example


def _placement(source: tf.Tensor, box: tf.Tensor | None, draws: tf.Tensor, setting: Setting) -> image.Placement:
    """The whole image, or in augmented training a random crop unless that would lose the box."""
    size = setting.recipe.image_size
    whole = image.place(source, size=size)
    if not (setting.training and setting.recipe.augment):
        return whole
    crop = image.place_randomly(source, size=size, draws=draws[DRAW_PLACE])
    if box is None:
        return crop
    return image.choose(boxes.has_area(boxes.to_canvas(box, crop, size=size)), crop, whole)
