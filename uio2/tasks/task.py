"""Stage 1, shared by all task families: one stored record and a choice become one example.

A family (one small file each) says which things of a record can be asked about (`items`), where the box
is and what the texts are; this module does the rest. Nothing is drawn here: `draws`, eight numbers in
0..1 per example, arrive with the record, so the example is a function of (record, draws) and nothing else.

What stage 1 makes, for one example:
  text_inputs                 string
  text_targets                string, or string [n] for several targets that do not see each other
  text_choices                string [c], answer options
  image_inputs                float32 [H, W, 3] in 0..1 on the canvas
  image_inputs_mask           bool [H, W], true where there is picture
  image_inputs_noise          float32 [patches], with `RegisterSpec.image_input_samples` alone: which are kept
  image_history_inputs        float32 [f, h, w, 3] and a mask without the 3: frames, oldest first
  audio_inputs                float32 [256, 128], log-mel, not normalised, and its mask: `uio2.tasks.audio`
  audio_history_inputs        float32 [f, 256, 128] and its mask: the segments before
  image_targets               float32 [h, w, 3] in 0..1 on the target canvas, and its mask
  audio_targets               float32 [256, 128] and its mask
  {image,audio}_targets_loss_mask, _task_mask   bool [codes]: what counts in the loss (without it: the mask), what
                              the task hid (without it: nothing)
  meta/task, meta/example_id  string; the id is unique within the task
  meta/image_id               int64, of the image or of whatever the record holds
  meta/image_info             float32 [11], see `uio2.tasks.image`; zeros where there is no image
  meta/all_targets            string [n], every accepted target
  meta/box                    float32 [4], y1, x1, y2, x2 in source pixels; zeros where there is none
  meta/question               string, in evaluation alone: what is asked, in the dataset's own words; "" where the
                              prompt asks for nothing of its own
  meta/truth/NAME             in evaluation alone: what else the answer is scored against, `Texts.truth`
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from uio2.tasks import boxes, image
from uio2.tasks.draws import noise, pick, pick_index
from uio2.tasks.lazy import tf
from uio2.tasks.prompts import Prompts, load_prompts, segments
from uio2.tasks.specs import RegisterSpec

PREFIXES = {"text": "[Text] [S] ", "image": "[Image] [S] ", "audio": "[Audio] [S] "}
NUM_DRAWS = 8
DRAW_ITEM, DRAW_PROMPT, DRAW_TARGET = 0, 1, 2
DRAW_PLACE = slice(3, 7)
DRAW_PIXELS = 7

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Texts:
    """What a family says about one item.

    Attributes:
      values: placeholder name -> string tensor, for the prompt; `prompt` itself for families without prompts.
      target: string scalar, or [n] for several targets that do not see each other; "" where it is no text.
      all_targets: string [n].
      item_id: int64 scalar; with the image id it names the example.
      choices: string [c], answer options; None for tasks without.
      prefix: string scalar in place of the modality's `[...] [S] `; None keeps that.
      truth: more of what the answer is scored against, any shapes; in source pixels where it lies on the image.
    """

    values: Mapping[str, tf.Tensor]
    target: tf.Tensor
    all_targets: tf.Tensor
    item_id: tf.Tensor
    choices: tf.Tensor | None = None
    prefix: tf.Tensor | None = None
    truth: Mapping[str, tf.Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Media:
    """What of an example is not text.

    Attributes:
      features: stage 1 keys.
      record_id: int64 scalar, unique in the dataset.
      name: string scalar, the same to be read.
      image_info: float32 [11]; zeros without an image.
      box: float32 [4] in source pixels; zeros for tasks without one.
      box_text: the box on the canvas as location pieces; a family with a `media` of its own hands its `texts` whatever
        strings depend on where things lie; None for tasks without any.
      truth: as of `Texts`, for what depends on the image.
    """

    features: Mapping[str, tf.Tensor]
    record_id: tf.Tensor
    name: tf.Tensor
    image_info: tf.Tensor
    box: tf.Tensor
    box_text: tf.Tensor | None = None
    truth: Mapping[str, tf.Tensor] = dataclasses.field(default_factory=dict)


def most_tokens(text: str) -> int:
    """How many tokens a text has at most, whatever the tokenizer: the marker of a word, and a piece for every byte."""
    return len(text.encode()) + 1


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a task needs beyond the record.

    Attributes:
      recipe: the mixture's settings.
      classes: names of the dataset's object classes; empty where it has none.
      tokens: how many tokens a name has, by which lists are cut.
      training: random item, prompt and placement; else the item asked for and the eval prompt.
    """

    recipe: RegisterSpec
    classes: tuple[str, ...] = ()
    tokens: Callable[[str], int] = most_tokens
    training: bool = False


class Task(abc.ABC):
    """A task family; about one image unless it says otherwise (`media`).

    Attributes:
      name: its name in seqio.
      about: what it asks of the model, a few words.
      dataset: name of the stage input it reads: `coco`, `refcoco`, `audio`, ...
      prompts: its prompt family; "" where the text of the record is the prompt.
      fields: paths of the record it needs, beside those of `media_fields`.
      media_fields: paths that `media` reads.
      takes: modalities of its input beside text; those of a recipe that lacks them are left out.
      makes: the modality of its target, for the prompt's prefix.
      score: how answers are scored, a name of `uio2.evaluate.families`, prefix of its metrics; "" where they are not.
      has_box: whether an example is about one box.
      has_choices: whether evaluation gives answer options (`Texts.choices`) and takes the likeliest of them.
    """

    name: str
    about: str = ""
    dataset: str
    prompts: str = ""
    fields: tuple[str, ...]
    media_fields: tuple[str, ...] = ("image", "image/id")
    takes: tuple[str, ...] = ("image",)
    makes: str = "text"
    score: str
    has_box: bool = False
    has_choices: bool = False

    def __init__(self, *, name: str = "", dataset: str = "") -> None:
        """A task of the family; another name and dataset make another task of it."""
        self.name = name or type(self).name
        self.dataset = dataset or type(self).dataset

    @abc.abstractmethod
    def items(self, record: Record) -> tf.Tensor:
        """int32 [n]: indices of what can be asked about; empty where the record has nothing for this task."""

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        """int32 [m]: the items evaluation asks about; empty where `items` is, and where this recipe has no room for
        what the record holds. Such a record is not trained on either."""
        del recipe
        return self.items(record)

    def box(self, record: Record, item: tf.Tensor) -> tf.Tensor | None:
        """float32 [4]: the item's normalised box; None for tasks without one."""
        del record, item
        return None

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        """The record's image on the canvas, and the item's box along with it."""
        return image_media(record, self.box(record, item), draws=draws, setting=setting)

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


def clean(text: tf.Tensor) -> tf.Tensor:
    """Text with control characters as spaces and none at the ends."""
    return tf.strings.strip(tf.strings.regex_replace(text, r"\s+", " "))


def question(values: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """What a prompt asks for in the dataset's own words: its first value that is not the box or the whole prompt."""
    return next((text for name, text in values.items() if name not in ("box", "prompt")), tf.constant(""))


def preprocessor(task: Task, *, setting: Setting, prompts: Prompts | None = None):
    """The stage 1 function of a task: `(record, item, draws) -> example`, to be mapped by tf.data.

    `item` counts into `eval_items` and is not used in training, where `draws` choose.
    """
    recipe = setting.recipe
    table = None
    if task.prompts:
        table = PromptTable(prompts or load_prompts(task.prompts, text=recipe.prompts.get(task.prompts)))
    always_eval_prompt = not setting.training or recipe.prompt_set == "eval"

    def prompt(texts: Texts, draws: tf.Tensor) -> tf.Tensor:
        prefix = PREFIXES[task.makes] if texts.prefix is None else texts.prefix
        if table is None:
            return prefix + texts.values["prompt"]
        number = table.num_train
        if not always_eval_prompt:
            number = tf.cast(draws[DRAW_PROMPT] * table.num_train, tf.int32)
        return prefix + table.render(number, texts.values)

    def example(record: Record, item: tf.Tensor, draws: tf.Tensor) -> dict[str, tf.Tensor]:
        if setting.training:
            chosen = pick(task.items(record), draws[DRAW_ITEM])
        else:
            chosen = task.eval_items(record, recipe)[item]
        media = task.media(record, chosen, draws=draws, setting=setting)
        texts = task.texts(record, chosen, box_text=media.box_text, draws=draws, setting=setting)
        item_id = tf.strings.as_string(tf.cast(texts.item_id, tf.int64))
        found = {
            "text_inputs": prompt(texts, draws),
            "text_targets": texts.target,
            **media.features,
            "meta/task": tf.constant(task.name),
            "meta/example_id": tf.strings.join([media.name, item_id], "/"),
            "meta/image_id": media.record_id,
            "meta/image_info": tf.ensure_shape(media.image_info, [11]),
            "meta/all_targets": texts.all_targets,
            "meta/box": media.box,
        }
        if texts.choices is not None:
            found["text_choices"] = texts.choices
        if not setting.training:
            found["meta/question"] = question(texts.values)
            found |= {f"meta/truth/{key}": value for key, value in {**media.truth, **texts.truth}.items()}
        return found

    return example


@dataclasses.dataclass(frozen=True)
class Seen:
    """The image of a record and where the model sees it.

    Attributes:
      pixels: uint8 [h, w, 3].
      placement: on the canvas of the image input.
      target: on the canvas of target images: the same part of the image.
      media: the image input, and a box along with it.
    """

    pixels: tf.Tensor
    placement: image.Placement
    target: image.Placement
    media: Media


def image_media(record: Record, box: tf.Tensor | None, *, draws: tf.Tensor, setting: Setting) -> Media:
    """`record["image"]` decoded and on the canvas, with a normalised box [4] of it or None."""
    return see(record, box=box, draws=draws, setting=setting).media


def see(record: Record, *, draws: tf.Tensor, setting: Setting, box: tf.Tensor | None = None,
        keeps: Callable[[image.Placement], tf.Tensor] | None = None) -> Seen:  # fmt: skip
    """`record["image"]` decoded and on the canvas.

    Args:
      record: with `image` and `image/id`.
      draws: of the example.
      setting: decides about a random crop.
      box: float32 [4], normalised; `media` tells where it lies.
      keeps: whether (bool scalar) a random crop still shows what the example is about; without it, whether it shows
        some of the box.
    """
    recipe, size = setting.recipe, setting.recipe.image_size
    pixels = tf.io.decode_image(record["image"], channels=3, expand_animations=False)
    source = tf.cast(image.source_size(record["image"]), tf.float32)
    box = None if box is None else tf.clip_by_value(box, 0.0, 1.0)
    if keeps is None and box is not None:
        keeps = functools.partial(_shows, box, size=size)
    placement, target = _placements(source, keeps, draws, setting)
    method: str | tf.Tensor = "bilinear"
    if setting.training and recipe.resize == "random":
        method = pick_index(len(image.METHODS), draws[DRAW_PIXELS])
    features = {
        "image_inputs": image.render(pixels, placement, size=size, method=method),
        "image_inputs_mask": image.pixel_mask(placement, size=size),
    }
    features |= patch_noise(recipe, draws[DRAW_PIXELS])
    image_id = tf.cast(record["image/id"], tf.int64)
    media = Media(features, image_id, tf.strings.as_string(image_id), placement.info(), tf.zeros(4))
    if box is not None:
        text = boxes.to_text(boxes.to_canvas(box, placement, size=size), size=size)
        media = dataclasses.replace(media, box=tf.reshape(box * tf.tile(source, [2]), [4]), box_text=text)
    return Seen(pixels, placement, target, media)


def patch_noise(recipe: RegisterSpec, draw: tf.Tensor) -> dict[str, tf.Tensor]:
    """`image_inputs_noise` where the recipe samples patches, else nothing."""
    if recipe.image_input_samples is None:
        return {}
    return {"image_inputs_noise": noise(image.Canvas(recipe.image_size, recipe.image_patch_size).num_patches, draw)}


def _shows(box: tf.Tensor, placement: image.Placement, *, size: tuple[int, int]) -> tf.Tensor:
    return boxes.has_area(boxes.to_canvas(box, placement, size=size))


def _placements(
    source: tf.Tensor, keeps: Callable[[image.Placement], tf.Tensor] | None, draws: tf.Tensor, setting: Setting
) -> tuple[image.Placement, image.Placement]:
    """On the canvases of input and target: whole, or in augmented training a random crop that keeps what matters."""
    size, onto = setting.recipe.image_size, setting.recipe.image_target_size
    whole, whole_target = image.place(source, size=size), image.place(source, size=onto)
    if not (setting.training and setting.recipe.augment):
        return whole, whole_target
    crop = image.place_randomly(source, size=size, draws=draws[DRAW_PLACE])
    target = image.follow(crop, size=size, onto=onto)
    if keeps is None:
        return crop, target
    kept = keeps(crop)
    return image.choose(kept, crop, whole), image.choose(kept, target, whole_target)
