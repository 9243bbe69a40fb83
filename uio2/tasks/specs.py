"""Settings of the tokenizer and register stages; nothing heavy is imported here.

A spec describes the recipe only. Where datasets lie arrives through the stage's inputs, so moving a
store changes no fingerprint.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

from uio2.pipeline.stage import StageError, StageType

FIRST_TASKS = (
    "image_caption_coco_2017",
    "vqa_coco_2017",
    "box_classification_coco_2017",
    "refcoco_unc",
)


@dataclasses.dataclass(frozen=True)
class TokenizerSpec:
    """How the SentencePiece model is trained on the text of the built datasets.

    Attributes:
      vocab_size: pieces of the base model, the 256 byte pieces and 3 control pieces included; the 1225
        special pieces come on top when it is loaded. A text too small for it gives fewer.
      model_type: `bpe` (as the published model) or `unigram`.
      max_sentences: at most this many lines are used, taken at an even stride.
      prompts_sha256: derived: the prompt files, whose text is trained on too.
    """

    vocab_size: int = 400
    model_type: str = "bpe"
    max_sentences: int = 1_000_000
    prompts_sha256: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts_sha256", _prompts_sha256())
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
      rates: task name -> relative share of the training examples; a task with rate 0 is only evaluated.
      image_size: height and width of the model's canvas, pixels.
      image_patch_size: side of a patch, pixels.
      text_inputs, text_targets: longest text in and out, tokens with EOS; longer text is cut and counted.
      augment: random scale and crop of training images (off for scenes where everything matters).
      prompt_set: `all` draws a training prompt at random, `eval` always uses the one for evaluation.
      vqa_target: `random` trains on any of a question's answers, `majority` on the most frequent.
      max_objects: box classification evaluates at most this many objects of an image.
      untrainable: what a task with a rate but no example in `train` means: `error`, or `evaluate` to go on with
        rate 0 and say so (a user's folder may hold some annotations for one split only).
      check_examples: examples of each task and split that are run through all stages before publishing.
      prompts_sha256: derived: the prompt files, so that a changed wording is a changed recipe.
    """

    rates: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(FIRST_TASKS, 1.0))
    image_size: tuple[int, int] = (384, 384)
    image_patch_size: int = 16
    text_inputs: int = 512
    text_targets: int = 512
    augment: bool = False
    prompt_set: str = "all"
    vqa_target: str = "random"
    max_objects: int = 20
    untrainable: str = "error"
    check_examples: int = 20
    prompts_sha256: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts_sha256", _prompts_sha256())
        object.__setattr__(self, "image_size", tuple(self.image_size))
        _choice("prompt_set", self.prompt_set, ("all", "eval"))
        _choice("untrainable", self.untrainable, ("error", "evaluate"))
        _choice("vqa_target", self.vqa_target, ("random", "majority"))
        if not self.rates or min(self.rates.values()) < 0 or sum(self.rates.values()) <= 0:
            raise StageError(
                f"RegisterSpec.rates is {dict(self.rates)}; expected at least one rate above 0 and none below"
            )
        for side in self.image_size:
            if side % self.image_patch_size:
                raise StageError(
                    f"RegisterSpec.image_size is {self.image_size}; expected multiples of image_patch_size "
                    f"{self.image_patch_size}"
                )
        for field in ("text_inputs", "text_targets", "max_objects", "check_examples"):
            if getattr(self, field) < 1:
                raise StageError(f"RegisterSpec.{field} is {getattr(self, field)}; expected 1 or more")


def _prompts_sha256() -> str:
    """Hex sha256 over the prompt files, in order of their names."""
    files = sorted((Path(__file__).parent / "prompts").glob("*.toml"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


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
)
