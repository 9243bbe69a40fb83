"""Sizes and switches of the model as frozen dataclasses; no jax here.

The five published sizes are one table (spec: MODEL.md section 2); `digits` is the embedded demo's.
A config round-trips through JSON, and `from_reference` reads the structure of the published configs.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any

INPUT_MODALITIES = ("text", "image")
TARGET_MODALITIES = ("text",)


class ConfigError(ValueError):
    """A model setting that cannot work; names the field, its value and what would."""


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """The vision transformer before the encoder.

    Attributes:
      emb_dim, num_heads, head_dim, mlp_dim, num_layers: the usual sizes.
      num_positions: rows of the learned position table: one class token plus a square grid.
    """

    emb_dim: int = 768
    num_heads: int = 12
    head_dim: int = 64
    mlp_dim: int = 3072
    num_layers: int = 11
    num_positions: int = 197

    @property
    def grid_side(self) -> int:
        """Side of the square grid the position table was trained on."""
        return round((self.num_positions - 1) ** 0.5)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that decides parameter shapes and the computation.

    Attributes:
      emb_dim: model width d.
      num_heads, head_dim, mlp_dim: attention and gated MLP sizes.
      num_encoder_layers, num_decoder_layers: depth.
      text_vocab_size: rows of the text embedding, specials and padding included.
      encoder_max_text_length, decoder_max_text_length: longest text in and out, tokens.
      image_size: height and width of the image input, pixels.
      image_patch_size: side of a patch, pixels.
      image_rope_scale: grid coordinates are multiplied by this before the 2-D rotary embedding
        (4/3 in the published models: sqrt(1024 target codes / 576 input patches)).
      vit: the vision transformer.
      freeze_vit: no gradient flows into the vision transformer (always so in the original).
      input_modalities, target_modalities: what exists; parameters of the rest do not.
      qk_norm: RMS norm of queries and keys over head_dim.
      dtype: computation dtype of the transformer; parameters are always float32.
      scan_unroll: layers per step of the layer scan; 0 unrolls all.
    """

    emb_dim: int = 1024
    num_heads: int = 16
    head_dim: int = 64
    mlp_dim: int = 2816
    num_encoder_layers: int = 24
    num_decoder_layers: int = 24
    text_vocab_size: int = 33280
    encoder_max_text_length: int = 512
    decoder_max_text_length: int = 512
    image_size: tuple[int, int] = (384, 384)
    image_patch_size: int = 16
    image_rope_scale: float = (1024 / 576) ** 0.5
    vit: VitConfig = VitConfig()
    freeze_vit: bool = True
    input_modalities: tuple[str, ...] = INPUT_MODALITIES
    target_modalities: tuple[str, ...] = TARGET_MODALITIES
    qk_norm: bool = True
    dtype: str = "float32"
    scan_unroll: int = 1

    def __post_init__(self) -> None:
        for side in self.image_size:
            if side % self.image_patch_size:
                raise ConfigError(
                    f"image_size {self.image_size} is not a multiple of image_patch_size {self.image_patch_size}"
                )
        for field, known in (("input_modalities", INPUT_MODALITIES), ("target_modalities", TARGET_MODALITIES)):
            unknown = [m for m in getattr(self, field) if m not in known]
            if unknown:
                raise ConfigError(f"{field} holds {unknown}; this version knows {list(known)}")
        if self.vit.grid_side**2 + 1 != self.vit.num_positions:
            raise ConfigError(f"vit.num_positions is {self.vit.num_positions}; expected 1 + a square")
        if self.head_dim % 4:
            raise ConfigError(f"head_dim is {self.head_dim}; the 2-D rotary embedding needs a multiple of 4")

    @property
    def image_grid(self) -> tuple[int, int]:
        """Patches per column and per row."""
        return self.image_size[0] // self.image_patch_size, self.image_size[1] // self.image_patch_size

    @property
    def num_patches(self) -> int:
        return self.image_grid[0] * self.image_grid[1]

    @property
    def patch_dim(self) -> int:
        return self.image_patch_size**2 * 3

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
        values = dict(values)
        vit = values.pop("vit", {})
        for klass, given in ((cls, values), (VitConfig, vit)):
            unknown = set(given) - {f.name for f in dataclasses.fields(klass)}
            if unknown:
                raise ConfigError(f"unknown {klass.__name__} fields {sorted(unknown)}")
        tuples = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **tuples, "vit": VitConfig(**vit)})

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """One of `PRESETS`; raises `ConfigError` naming them all."""
        if name not in PRESETS:
            raise ConfigError(f"unknown model preset {name!r}; known: {', '.join(PRESETS)}")
        return PRESETS[name]

    def with_overrides(self, changes: Mapping[str, Any]) -> ModelConfig:
        """This config with fields replaced; `vit` takes a mapping of its own fields.

        Raises:
          ConfigError: an unknown field, with the nearest known one.
        """
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in changes.items()}
        _check_fields("model_overrides", values, ModelConfig)
        if "vit" in values:
            _check_fields("model_overrides.vit", values["vit"], VitConfig)
            values["vit"] = dataclasses.replace(self.vit, **values["vit"])
        return dataclasses.replace(self, **values)

    @classmethod
    def from_reference(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The published structure: `T5Config`, `ImageVitFeatureConfig` (or their snake_case names)."""
        t5 = values.get("T5Config") or values["t5_config"]
        vit = values.get("ImageVitFeatureConfig") or values["image_vit_config"]
        return cls(
            **{k: t5[k] for k in ("emb_dim", "num_heads", "head_dim", "mlp_dim", "qk_norm", "dtype")},
            num_encoder_layers=t5["num_encoder_layers"],
            num_decoder_layers=t5["num_decoder_layers"],
            text_vocab_size=t5["vocab_size"],
            encoder_max_text_length=t5["encoder_max_text_length"],
            decoder_max_text_length=t5["decoder_max_text_length"],
            image_size=tuple(t5["default_image_vit_size"]),
            image_patch_size=t5["image_patch_size"],
            image_rope_scale=(t5["decoder_max_image_length"] / t5["encoder_max_image_length"]) ** 0.5,
            vit=VitConfig(
                **{k: vit[k] for k in ("emb_dim", "num_heads", "head_dim", "mlp_dim", "num_layers")},
                num_positions=vit["num_pos"],
            ),
        )


def _check_fields(where: str, given: Mapping[str, Any], klass: type) -> None:
    known = [f.name for f in dataclasses.fields(klass)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where} names {name!r}, unknown to {klass.__name__}{hint}")


def _published(emb_dim: int, num_heads: int, head_dim: int, mlp_dim: int, layers: int) -> ModelConfig:
    return ModelConfig(
        emb_dim=emb_dim, num_heads=num_heads, head_dim=head_dim, mlp_dim=mlp_dim,
        num_encoder_layers=layers, num_decoder_layers=layers,
    )  # fmt: skip


PRESETS: dict[str, ModelConfig] = {
    "tiny": _published(16, 4, 16, 32, 1),
    "base": _published(768, 12, 64, 2048, 12),
    "large": _published(1024, 16, 64, 2816, 24),
    "xl": _published(2048, 16, 128, 5120, 24),
    "xxl": _published(3072, 24, 128, 8192, 24),
    "digits": ModelConfig(
        emb_dim=128,
        num_heads=4,
        head_dim=32,
        mlp_dim=256,
        num_encoder_layers=3,
        num_decoder_layers=3,
        text_vocab_size=2048,
        encoder_max_text_length=40,
        decoder_max_text_length=24,
        image_size=(96, 96),
        image_patch_size=16,
        image_rope_scale=1.0,
        vit=VitConfig(emb_dim=128, num_heads=4, head_dim=32, mlp_dim=512, num_layers=4, num_positions=37),
        scan_unroll=0,
    ),
}
