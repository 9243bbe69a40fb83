"""The model batch as the recipe shapes it: name -> shape of one example and dtype. One place for each size."""

from __future__ import annotations

import dataclasses

from uio2.tasks.audio import SPECTROGRAM
from uio2.tasks.specs import RegisterSpec

TEXT_INPUT = ("tokens", "mask", "pos_ids")
TEXT_TARGET = ("inputs", "targets", "mask", "pos_ids", "segment_ids")
TASK = "task"  # of a training batch, int32 [b]: the number of each example's task in `Feed.tasks`
CODE_MASKS = ("mask", "loss_mask", "task_mask")


@dataclasses.dataclass(frozen=True)
class Feature:
    """Shape of one example and the name of its dtype."""

    shape: tuple[int, ...]
    dtype: str = "int32"


def patches(size: tuple[int, int], patch: int) -> int:
    """Squares of side `patch` in a picture or spectrogram."""
    return size[0] // patch * (size[1] // patch)


def text_features(recipe: RegisterSpec) -> dict[str, Feature]:
    """The text of the batch."""
    found = {f"inputs/text/{key}": Feature((recipe.text_inputs,)) for key in TEXT_INPUT}
    if "text" in recipe.target_modalities:
        found |= {f"targets/text/{key}": Feature((recipe.text_targets,)) for key in TEXT_TARGET}
    return found


def media_features(recipe: RegisterSpec) -> dict[str, Feature]:
    """Everything of the batch but text."""
    pixels, levels = recipe.image_patch_size**2 * 3, recipe.audio_patch_size**2
    history = patches(recipe.image_history_size, recipe.image_patch_size)
    sound = patches(SPECTROGRAM, recipe.audio_patch_size)
    inputs = {
        "image": ((recipe.num_image_patches,), pixels),
        "image_history": ((recipe.num_frames, history), pixels),
        "audio": ((sound,), levels),
        "audio_history": ((recipe.num_audio_segments, sound), levels),
    }
    targets = {
        "image": ((*recipe.image_target_size, 3), patches(recipe.image_target_size, recipe.image_target_patch_size)),
        "audio": ((*SPECTROGRAM, 1), patches(SPECTROGRAM, recipe.audio_target_patch_size)),
    }
    found: dict[str, Feature] = {}
    for kind, (shape, values) in inputs.items():
        if kind in recipe.input_modalities:
            found[f"inputs/{kind}/input"] = Feature((*shape, values), "float32")
            found |= {f"inputs/{kind}/{key}": Feature(shape) for key in ("mask", "pos_ids")}
    for kind, (shape, codes) in targets.items():
        if kind in recipe.target_modalities:
            found[f"targets/{kind}/{kind}"] = Feature(shape, "float32")
            found |= {f"targets/{kind}/{key}": Feature((codes,)) for key in CODE_MASKS}
    return found
