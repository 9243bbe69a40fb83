"""Sizes and switches of the whole model as one frozen dataclass; no jax here.

Named sizes are in `presets.py`, the parts' own sizes in `parts.py`. A config round-trips through JSON, and
`from_reference` reads the structure of the published configs.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from uio2.model.parts import (
    AudioCodecConfig,
    CodecTransformerConfig,
    ConfigError,
    ImageCodecConfig,
    ResamplerConfig,
    VitConfig,
)

INPUT_MODALITIES = ("text", "image", "image_history", "audio", "audio_history")
TARGET_MODALITIES = ("text", "image", "audio")
DTYPES = ("float32", "bfloat16")
REMATS = ("none", "full", "dots")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that decides parameter shapes and the computation. Sizes of arrays are height/time first.

    Attributes:
      emb_dim: model width d.
      num_heads, head_dim, mlp_dim: attention and gated MLP sizes.
      num_encoder_layers, num_decoder_layers: depth.
      text_vocab_size, image_vocab_size, audio_vocab_size: rows of the embeddings, specials and padding included.
      encoder_max_text_length, decoder_max_text_length: longest text in and out, tokens.
      image_size, image_history_size: height and width of the image inputs, pixels.
      image_patch_size: side of their patches, pixels.
      audio_size, audio_history_size: time frames and frequency bins of the spectrogram inputs.
      audio_patch_size: side of their patches.
      image_rope_scale, audio_rope_scale: grid coordinates of image and audio input are multiplied by this before
        the 2-D rotary embedding (4/3 in the published models: sqrt(1024 target codes / 576 input patches), for both).
      image_vit, audio_vit: the vision transformers; each also serves the history of its modality.
      image_resampler, audio_resampler: the perceivers of the histories.
      image_codec, audio_codec: what turns target images and spectrograms into codes and back.
      freeze_vit: no gradient flows into the vision transformers (always so in the original, whatever it was set to).
      input_modalities, target_modalities: what exists; parameters of the rest do not.
      unk_mask_token: the decoder sees token 1 in place of image and audio codes that the task masks.
      shift_back_input_token: an example in which the task masks any code shows the decoder every code at its own
        place, not one later; meant to go with `unk_mask_token` (spec section 6).
      qk_norm: RMS norm of queries and keys over head_dim.
      dtype: computation of transformer, resamplers and spectrogram codec: `float32` or `bfloat16`. Parameters, norms,
        softmax, logits, vision transformers and the image codec are float32 in either (spec section 2, 3).
      remat: what the backward pass computes again, per layer: `none`, `full`, or `dots` (all but matrix products).
      scan_unroll: layers per step of the layer scan; 0 unrolls all.
    """

    emb_dim: int = 1024
    num_heads: int = 16
    head_dim: int = 64
    mlp_dim: int = 2816
    num_encoder_layers: int = 24
    num_decoder_layers: int = 24
    text_vocab_size: int = 33280
    image_vocab_size: int = 16512
    audio_vocab_size: int = 8320
    encoder_max_text_length: int = 512
    decoder_max_text_length: int = 512
    image_size: tuple[int, int] = (384, 384)
    image_history_size: tuple[int, int] = (256, 256)
    image_patch_size: int = 16
    audio_size: tuple[int, int] = (256, 128)
    audio_history_size: tuple[int, int] = (256, 128)
    audio_patch_size: int = 16
    image_rope_scale: float = (1024 / 576) ** 0.5
    audio_rope_scale: float = (1024 / 576) ** 0.5
    image_vit: VitConfig = VitConfig()
    audio_vit: VitConfig = VitConfig(num_positions=514)
    image_resampler: ResamplerConfig = ResamplerConfig()
    audio_resampler: ResamplerConfig = ResamplerConfig(num_latents=16)
    image_codec: ImageCodecConfig = ImageCodecConfig()
    audio_codec: AudioCodecConfig = AudioCodecConfig()
    freeze_vit: bool = True
    input_modalities: tuple[str, ...] = INPUT_MODALITIES
    target_modalities: tuple[str, ...] = TARGET_MODALITIES
    unk_mask_token: bool = False
    shift_back_input_token: bool = False
    qk_norm: bool = True
    dtype: str = "float32"
    remat: str = "none"
    scan_unroll: int = 1

    def __post_init__(self) -> None:
        for field in ("image_size", "image_history_size", "audio_size", "audio_history_size"):
            patch = self.image_patch_size if field.startswith("image") else self.audio_patch_size
            if any(side % patch for side in getattr(self, field)):
                kind = field.partition("_")[0]
                raise ConfigError(f"{field} {getattr(self, field)} is not a multiple of {kind}_patch_size {patch}")
        modalities: dict[str, tuple[str, ...]] = {
            "input_modalities": INPUT_MODALITIES,
            "target_modalities": TARGET_MODALITIES,
        }
        for field, known in modalities.items():
            unknown = [m for m in getattr(self, field) if m not in known]
            if unknown:
                raise ConfigError(f"{field} holds {unknown}; this version knows {list(known)}")
        for field, choices in (("dtype", DTYPES), ("remat", REMATS)):
            if getattr(self, field) not in choices:
                raise ConfigError(f"{field} is {getattr(self, field)!r}; expected one of {', '.join(choices)}")
        if self.image_vit.grid_side**2 + 1 != self.image_vit.num_positions:
            raise ConfigError(f"image_vit.num_positions is {self.image_vit.num_positions}; expected 1 + a square")
        if self.head_dim % 4:
            raise ConfigError(f"head_dim is {self.head_dim}; the 2-D rotary embedding needs a multiple of 4")

    @property
    def image_grid(self) -> tuple[int, int]:
        """Patches per column and per row of an input image."""
        return _grid(self.image_size, self.image_patch_size)

    @property
    def image_history_grid(self) -> tuple[int, int]:
        return _grid(self.image_history_size, self.image_patch_size)

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Patches along time and along frequency of an input spectrogram."""
        return _grid(self.audio_size, self.audio_patch_size)

    @property
    def audio_history_grid(self) -> tuple[int, int]:
        return _grid(self.audio_history_size, self.audio_patch_size)

    @property
    def num_patches(self) -> int:
        return self.image_grid[0] * self.image_grid[1]

    @property
    def patch_dim(self) -> int:
        return self.image_patch_size**2 * 3

    @property
    def audio_patch_dim(self) -> int:
        return self.audio_patch_size**2

    @property
    def use_rotary(self) -> bool:
        """The original drops all positions when head_dim equals emb_dim (spec section 2)."""
        return self.head_dim != self.emb_dim

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Raises `ConfigError` on a field this version does not know."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `dataclasses.asdict`; fields left out have their defaults."""
        return _replace(cls(), values, where="the model config")

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """A named size; raises `ConfigError` naming them all."""
        from uio2.model.presets import PRESETS

        if name not in PRESETS:
            raise ConfigError(f"unknown model preset {name!r}; known: {', '.join(PRESETS)}")
        return PRESETS[name]

    def with_overrides(self, changes: Mapping[str, Any]) -> ModelConfig:
        """This config with fields replaced; a part (`image_vit`, ...) takes a mapping of its own fields.

        Raises:
          ConfigError: an unknown field, with the nearest known one.
        """
        return _replace(self, changes, where="model_overrides")

    def to_reference(self) -> dict[str, Any]:
        """The structure of the hub's `config.json`, which `from_reference` reads; see `published.py` for what is lost.

        Raises:
          ConfigError: that structure cannot say it.
        """
        from uio2.model.published import to_reference

        return to_reference(self)

    @classmethod
    def from_reference(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The published structure, in the original's names (`T5Config`, ...) or the PyTorch port's (`t5_config`, ...).

        Raises:
          ConfigError: a section is missing.
        """
        t5 = _section(values, "T5Config", "t5_config")
        image_vit = _section(values, "ImageVitFeatureConfig", "image_vit_cfg")
        audio_vit = _section(values, "AudioVitFeatureConfig", "audio_vit_cfg")
        rope_scale = (t5["decoder_max_image_length"] / t5["encoder_max_image_length"]) ** 0.5
        return cls(
            **{k: t5[k] for k in ("emb_dim", "num_heads", "head_dim", "mlp_dim", "qk_norm")},
            **{k: t5[k] for k in ("num_encoder_layers", "num_decoder_layers", "image_vocab_size", "audio_vocab_size")},
            **{k: t5[k] for k in ("encoder_max_text_length", "decoder_max_text_length", "audio_patch_size")},
            unk_mask_token=t5.get("unk_mask_token", False),
            shift_back_input_token=t5.get("shift_back_input_token", False),
            dtype=t5.get("dtype", "float32"),
            text_vocab_size=t5["vocab_size"],
            image_size=tuple(t5["default_image_vit_size"]),
            image_history_size=tuple(t5["default_image_history_vit_size"]),
            image_patch_size=t5["image_patch_size"],
            audio_size=tuple(t5["default_audio_vit_size"]),
            audio_history_size=tuple(t5["default_audio_history_vit_size"]),
            image_rope_scale=rope_scale,
            audio_rope_scale=rope_scale,
            image_vit=_vit(image_vit, num_positions=image_vit["num_pos"]),
            audio_vit=_vit(audio_vit, num_positions=514),
            image_resampler=_resampler(_section(values, "ImageResamplerConfig", "image_history_cfg")),
            audio_resampler=_resampler(_section(values, "AudioResamplerConfig", "audio_history_cfg")),
            image_codec=_image_codec(_section(values, "VAEConfig", "image_vqgan")),
            audio_codec=_audio_codec(_section(values, "AudioViTVQGANConfig", "audio_vqgan")),
            input_modalities=tuple(values.get("input_modalities", INPUT_MODALITIES)),
            target_modalities=tuple(values.get("target_modalities", TARGET_MODALITIES)),
        )


def _grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    return size[0] // patch, size[1] // patch


def _replace[C](config: C, changes: Mapping[str, Any], *, where: str) -> C:
    """`dataclasses.replace` that descends into nested configs and turns JSON lists into tuples."""
    known = {field.name: getattr(config, field.name) for field in dataclasses.fields(typing.cast(Any, config))}
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where} names {name!r}, unknown to {type(config).__name__}{hint}")
        if dataclasses.is_dataclass(known[name]) and isinstance(value, Mapping):
            value = _replace(known[name], value, where=f"{where}.{name}")
        values[name] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(typing.cast(Any, config), **values)


def _section(values: Mapping[str, Any], original: str, port: str) -> Mapping[str, Any]:
    if original not in values and port not in values:
        raise ConfigError(f"the config has neither {original!r} nor {port!r}; expected a published model's config")
    return values.get(original) or values[port]


def _sizes(values: Mapping[str, Any], prefix: str = "") -> Mapping[str, Any]:
    names = ("num_heads", "head_dim", "mlp_dim", "num_layers")
    return types.MappingProxyType({name: values[prefix + name] for name in names})


def _vit(values: Mapping[str, Any], *, num_positions: int) -> VitConfig:
    return VitConfig(emb_dim=values["emb_dim"], **_sizes(values), num_positions=num_positions)


def _attention(values: Mapping[str, Any], prefix: str) -> str:
    if values[f"{prefix}_scaled_cosine"]:
        return "scaled_cosine"
    return "qk_norm" if values[f"{prefix}_qk_norm"] else "plain"


def _resampler(values: Mapping[str, Any]) -> ResamplerConfig:
    return ResamplerConfig(
        emb_dim=values["emb_dim"],
        **_sizes(values),
        num_latents=values["latents_size"],
        max_frames=values["max_frames"],
        cross_layers=tuple(values["xattention_index"]),
        cross_attention=_attention(values, "xattn"),
        self_attention=_attention(values, "attn"),
    )


def _image_codec(values: Mapping[str, Any]) -> ImageCodecConfig:
    # `embed_dim` is no setting of the codebook in the original; both publications use z_channels (HUGGINGFACE.md).
    return ImageCodecConfig(
        channels=values["ch"],
        multipliers=tuple(values["ch_mult"]),
        num_res_blocks=values["num_res_blocks"],
        z_channels=values["z_channels"],
        num_codes=values["n_embed"],
        image_size=tuple(values["default_input_size"]),
        attention_sides=tuple(values["attn_resolutions"]),
    )


def _audio_codec(values: Mapping[str, Any]) -> AudioCodecConfig:
    halves = {
        half: CodecTransformerConfig(emb_dim=values[f"{half}_hidden_size"], **_sizes(values, f"{half}_"))
        for half in ("encoder", "decoder")
    }
    return AudioCodecConfig(
        **halves,
        code_dim=values["proj_dim"],
        num_codes=values["vocab_size"],
        spectrogram_size=tuple(values["default_input_size"]),
        patch_size=values["patch_size"][0],
    )
