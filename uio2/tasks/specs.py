"""Settings of the tokenizer and register stages; nothing heavy is imported here.

A spec describes the recipe only. Where datasets lie arrives through the stage's inputs, so moving a
store changes no fingerprint.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

from uio2.model.config import INPUT_MODALITIES, TARGET_MODALITIES
from uio2.pipeline.stage import StageError, StageType
from uio2.tasks.mixtures import expand
from uio2.tasks.prompts import PromptError, load_prompts, prompt_file

# Prompt families of `FIRST_TASKS`.
FIRST_PROMPTS = ("box_classification", "image_captioning", "referring_expression", "vqa")
FIRST_TASKS = (
    "image_caption_coco_2017",
    "vqa_coco_2017",
    "box_classification_coco_2017",
    "refcoco_unc",
)
_SIZES = (
    ("image_size", "image_patch_size"),
    ("image_history_size", "image_patch_size"),
    ("image_target_size", "image_target_patch_size"),
)
_COUNTS = ("text_inputs", "text_targets", "num_frames", "num_audio_segments", "max_objects", "check_examples")


@dataclasses.dataclass(frozen=True)
class TokenizerSpec:
    """How the SentencePiece model is trained on the text of the built datasets.

    Attributes:
      vocab_size: pieces of the base model, the 256 byte pieces and 3 control pieces included; the 1225
        special pieces come on top when it is loaded. A text too small for it gives fewer.
      model_type: `bpe` (as the published model) or `unigram`.
      max_sentences: at most this many lines are used, taken at an even stride.
      prompts: prompt families whose wording is trained on too.
      prompts_sha256: derived: their files.
    """

    vocab_size: int = 400
    model_type: str = "bpe"
    max_sentences: int = 1_000_000
    prompts: tuple[str, ...] = FIRST_PROMPTS
    prompts_sha256: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        object.__setattr__(self, "prompts_sha256", _prompts_sha256(dict.fromkeys(self.prompts)))
        if self.vocab_size < 300:
            raise StageError(
                f"TokenizerSpec.vocab_size is {self.vocab_size}; expected at least 300 (259 are bytes and control)"
            )
        if self.model_type not in ("bpe", "unigram"):
            raise StageError(f"TokenizerSpec.model_type is {self.model_type!r}; expected 'bpe' or 'unigram'")


@dataclasses.dataclass(frozen=True)
class RegisterSpec:
    """A mixture of tasks and the shapes its examples take.

    Attributes:
      rates: task name -> relative share of the training examples; a task with rate 0 is only evaluated. The name of a
        mixture (`uio2.tasks.mixtures`) stands for its tasks, which share the rate.
      input_modalities: of text, image, image_history, audio, audio_history: what batches hold. Of a task that gives
        more, the rest is left out; what it lacks is filled with zeros.
      target_modalities: of text, image, audio: likewise.
      image_size: height and width of the model's canvas, pixels.
      image_patch_size: side of a patch, pixels; of the image history too.
      image_input_samples: patches of the image that the model gets: None all, a float that share of them, an int that
        many. Drawn anew for each example, those that show picture first.
      image_history_size: height and width of the canvas of history frames, pixels.
      num_frames: frames of image history; more are cut off, fewer filled up.
      audio_patch_size: side of a patch of a spectrogram. (Its size is fixed: a segment of 4.08 s, 256 frames of 128.)
      num_audio_segments: segments of audio history; together with the audio input that is the longest clip.
      image_target_size: height and width of a target image, pixels.
      image_target_patch_size, audio_target_patch_size: side of the square that becomes one code.
      text_inputs, text_targets: longest text in and out, tokens with EOS; longer text is cut and counted.
      augment: random scale and crop of training images (off for scenes where everything matters).
      resize: `bilinear`, or `random`: training images are resized by one of eight methods.
      prompts: prompt family -> a prompt file of yours in place of ours; held as its content, so that where it lies
        does not matter.
      prompt_set: `all` draws a training prompt at random, `eval` always uses the one for evaluation.
      vqa_target: `random` trains on any of a question's answers, `majority` on the most frequent.
      max_objects: tasks about one object or region each evaluate at most this many of an image.
      untrainable: what a task with a rate but no example in `train` means: `error`, or `evaluate` to go on with
        rate 0 and say so (a user's folder may hold some annotations for one split only).
      missing_data: what a task whose dataset is not given means: `error`, or `leave_out` for a mixture of which only
        a part is built.
      check_examples: examples of each task and split that are run through all stages before publishing.
      prompts_sha256: derived: the prompts of these tasks, so that a changed wording is a changed recipe.
    """

    rates: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(FIRST_TASKS, 1.0))
    input_modalities: tuple[str, ...] = ("text", "image")
    target_modalities: tuple[str, ...] = ("text",)
    image_size: tuple[int, int] = (384, 384)
    image_patch_size: int = 16
    image_input_samples: float | int | None = None
    image_history_size: tuple[int, int] = (256, 256)
    num_frames: int = 4
    audio_patch_size: int = 16
    num_audio_segments: int = 4
    image_target_size: tuple[int, int] = (256, 256)
    image_target_patch_size: int = 8
    audio_target_patch_size: int = 8
    text_inputs: int = 512
    text_targets: int = 512
    augment: bool = False
    resize: str = "bilinear"
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prompt_set: str = "all"
    vqa_target: str = "random"
    max_objects: int = 20
    untrainable: str = "error"
    missing_data: str = "error"
    check_examples: int = 20
    prompts_sha256: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        for field in ("input_modalities", "target_modalities", *(size for size, _ in _SIZES)):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        _choice("prompt_set", self.prompt_set, ("all", "eval"))
        _choice("untrainable", self.untrainable, ("error", "evaluate"))
        _choice("missing_data", self.missing_data, ("error", "leave_out"))
        _choice("vqa_target", self.vqa_target, ("random", "majority"))
        _choice("resize", self.resize, ("bilinear", "random"))
        if not self.rates or min(self.rates.values()) < 0 or sum(self.rates.values()) <= 0:
            raise StageError(
                f"RegisterSpec.rates is {dict(self.rates)}; expected at least one rate above 0 and none below"
            )
        for field in _COUNTS:
            if getattr(self, field) < 1:
                raise StageError(f"RegisterSpec.{field} is {getattr(self, field)}; expected 1 or more")
        self._check_modalities()
        self._check_sizes()
        self._name_tasks()
        self._read_prompts()

    def _name_tasks(self) -> None:
        from uio2.tasks.families import TaskError  # they import this module

        try:
            object.__setattr__(self, "rates", expand(self.rates))
        except TaskError as error:
            raise StageError(f"RegisterSpec.rates: {error}") from error

    def _read_prompts(self) -> None:
        from uio2.tasks.families import find_task  # they import this module

        try:
            used = sorted({find_task(name).prompts for name in self.rates} - {""})
            given = {family: _content(family, value) for family, value in self.prompts.items()}
        except PromptError as error:
            raise StageError(f"RegisterSpec: {error}") from error
        for family in given:
            if family not in used:
                raise StageError(f"RegisterSpec.prompts names {family!r}; the families of its tasks: {', '.join(used)}")
        object.__setattr__(self, "prompts", given)
        object.__setattr__(self, "prompts_sha256", _prompts_sha256({family: given.get(family) for family in used}))

    def _check_modalities(self) -> None:
        for field, known in (("input_modalities", INPUT_MODALITIES), ("target_modalities", TARGET_MODALITIES)):
            for value in getattr(self, field):
                _choice(field, value, known)
        if "text" not in self.input_modalities:
            raise StageError(
                f"RegisterSpec.input_modalities is {self.input_modalities}; expected text among them: it is the prompt"
            )
        if not self.target_modalities:
            raise StageError("RegisterSpec.target_modalities is (); expected at least one")

    def _check_sizes(self) -> None:
        for size, patch in _SIZES:
            sides, side = getattr(self, size), getattr(self, patch)
            if any(length % side for length in sides):
                raise StageError(f"RegisterSpec.{size} is {sides}; expected multiples of {patch} {side}")
        if not 0 < self.num_image_patches <= self.image_size[0] * self.image_size[1] // self.image_patch_size**2:
            raise StageError(
                f"RegisterSpec.image_input_samples is {self.image_input_samples}, which is {self.num_image_patches} "
                f"patches; expected None, a share (float) up to 1.0 or a number (int) up to the patches of an image"
            )

    @property
    def num_image_patches(self) -> int:
        """Patches of the image input in a batch."""
        every = self.image_size[0] * self.image_size[1] // self.image_patch_size**2
        if self.image_input_samples is None:
            return every
        share = isinstance(self.image_input_samples, float)
        return int(self.image_input_samples * every) if share else int(self.image_input_samples)


def _prompts_sha256(families: Mapping[str, str | None]) -> str:
    """Hex sha256 over the prompts of these families: the given contents, else our own files."""
    texts = [prompt_file(family).read_text() if text is None else text for family, text in sorted(families.items())]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _content(family: str, value: str) -> str:
    """The checked content of a prompt file given by its path, or by its content (which has several lines)."""
    text = value if "\n" in value else None
    load_prompts(family, path=None if text else value, text=text)
    return Path(value).read_text(encoding="utf-8") if text is None else text


def _choice(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise StageError(f"RegisterSpec.{field} is {value!r}; expected one of {', '.join(known)}")


TRAIN_TOKENIZER = StageType(
    name="tokenizer",
    kind="tokenizer",
    spec=TokenizerSpec,
    run="uio2.tasks.tokenizer_stage:run",
)
REGISTER = StageType(
    name="register",
    kind="mixture",
    spec=RegisterSpec,
    run="uio2.tasks.register_stage:run",
    code_version="3",  # 2: what was dropped from the samples; 3: recordings and lists of parts that are too long
)
