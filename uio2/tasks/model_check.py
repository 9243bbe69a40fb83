"""Whether a model can eat the batches of a recipe: modalities, sizes and lengths, compared field by field."""

from __future__ import annotations

from typing import Any

from uio2.model.config import ModelConfig
from uio2.tasks.audio import SPECTROGRAM
from uio2.tasks.specs import RegisterSpec


def mismatches(recipe: RegisterSpec, config: ModelConfig) -> list[str]:
    """All that does not fit, each with the setting to change."""
    wrong = []
    for field in ("input_modalities", "target_modalities"):
        missing = [m for m in getattr(recipe, field) if m not in getattr(config, field)]
        if missing:
            wrong.append(
                f"the mixture's {field} hold {', '.join(missing)}, the model's are {getattr(config, field)}; "
                f"change RegisterSpec.{field} or the model"
            )
    for modality, field, ours, theirs in _equal(recipe, config):
        if modality and tuple_of(ours) != tuple_of(theirs):
            wrong.append(f"RegisterSpec.{field} makes {ours}, the model takes {theirs}; set the first to the second")
    for modality, field, ours, theirs in _most(recipe, config):
        if modality and ours > theirs[1]:
            wrong.append(f"RegisterSpec.{field} is {ours}, the model's {theirs[0]} is {theirs[1]}; lower the first")
    return wrong


def tuple_of(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _equal(recipe: RegisterSpec, config: ModelConfig) -> list[tuple[bool, str, Any, Any]]:
    """(is the modality used, field, the recipe's value, the model's)."""
    inputs, targets = set(recipe.input_modalities), set(recipe.target_modalities)
    sound = bool({"audio", "audio_history"} & inputs)
    codec = config.image_codec
    return [
        ("image" in inputs, "image_size", recipe.image_size, config.image_size),
        (bool({"image", "image_history"} & inputs), "image_patch_size", recipe.image_patch_size,
         config.image_patch_size),
        ("image_history" in inputs, "image_history_size", recipe.image_history_size, config.image_history_size),
        ("audio" in inputs, "input_modalities (audio)", SPECTROGRAM, config.audio_size),
        ("audio_history" in inputs, "input_modalities (audio_history)", SPECTROGRAM, config.audio_history_size),
        (sound, "audio_patch_size", recipe.audio_patch_size, config.audio_patch_size),
        ("image" in targets, "image_target_size", recipe.image_target_size, codec.image_size),
        ("image" in targets, "image_target_patch_size", recipe.image_target_patch_size, codec.patch_size),
        ("audio" in targets, "target_modalities (audio)", SPECTROGRAM, config.audio_codec.spectrogram_size[::-1]),
        ("audio" in targets, "audio_target_patch_size", recipe.audio_target_patch_size, config.audio_codec.patch_size),
    ]  # fmt: skip


def _most(recipe: RegisterSpec, config: ModelConfig) -> list[tuple[bool, str, int, tuple[str, int]]]:
    """(is the modality used, field, the recipe's value, the model's limit and its name)."""
    inputs = set(recipe.input_modalities)
    return [
        (True, "text_inputs", recipe.text_inputs, ("encoder_max_text_length", config.encoder_max_text_length)),
        ("text" in recipe.target_modalities, "text_targets", recipe.text_targets,
         ("decoder_max_text_length", config.decoder_max_text_length)),
        ("image_history" in inputs, "num_frames", recipe.num_frames,
         ("image_resampler.max_frames", config.image_resampler.max_frames)),
        ("audio_history" in inputs, "num_audio_segments", recipe.num_audio_segments,
         ("audio_resampler.max_frames", config.audio_resampler.max_frames)),
    ]  # fmt: skip
