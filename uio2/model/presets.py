"""The five published sizes (spec: MODEL.md section 2) and `digits`, the embedded demo's, as one table."""

from __future__ import annotations

import dataclasses

from uio2.model.config import ModelConfig
from uio2.model.parts import ResamplerConfig, VitConfig


def _published(
    emb_dim: int, num_heads: int, head_dim: int, mlp_dim: int, layers: int, *, resampler: ResamplerConfig
) -> ModelConfig:
    return ModelConfig(
        emb_dim=emb_dim, num_heads=num_heads, head_dim=head_dim, mlp_dim=mlp_dim,
        num_encoder_layers=layers, num_decoder_layers=layers,
        image_resampler=resampler, audio_resampler=dataclasses.replace(resampler, num_latents=16),
    )  # fmt: skip


_TINY = ResamplerConfig(emb_dim=16, num_heads=4, head_dim=16, mlp_dim=32, num_layers=1)
_BASE = ResamplerConfig(mlp_dim=3072)
_LARGE = ResamplerConfig()
_XL = ResamplerConfig(emb_dim=1024, num_heads=16, head_dim=64, mlp_dim=4096)
_XXL = dataclasses.replace(_XL, cross_attention="scaled_cosine", self_attention="scaled_cosine")

PRESETS: dict[str, ModelConfig] = {
    "tiny": _published(16, 4, 16, 32, 1, resampler=_TINY),
    "base": _published(768, 12, 64, 2048, 12, resampler=_BASE),
    "large": _published(1024, 16, 64, 2816, 24, resampler=_LARGE),
    "xl": _published(2048, 16, 128, 5120, 24, resampler=_XL),
    "xxl": _published(3072, 24, 128, 8192, 24, resampler=_XXL),
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
        image_vit=VitConfig(emb_dim=128, num_heads=4, head_dim=32, mlp_dim=512, num_layers=4, num_positions=37),
        input_modalities=("text", "image"),
        target_modalities=("text",),
        scan_unroll=0,
    ),
}
