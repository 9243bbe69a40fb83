"""A `ModelConfig` in the structure of the `config.json` on the hub (spec: HUGGINGFACE.md); no jax here.

The inverse of `ModelConfig.from_reference`, but for what says how to compute rather than what the model is: `dtype`,
`remat`, `scan_unroll` and the resamplers' `gelu` are not written, `freeze_vit` is not read.
"""

from __future__ import annotations

import math
from typing import Any

from uio2.model.config import ModelConfig
from uio2.model.parts import AudioCodecConfig, ConfigError, ImageCodecConfig, ResamplerConfig, VitConfig

# Settings of the original that never differ between its models and decide no parameter.
_ACTIVATIONS: dict[str, Any] = {"dropout_rate": 0.0, "dropout_broadcast_dims": [-2]}
_T5: dict[str, Any] = {
    "mlp_activations": ["silu", "linear"],
    **_ACTIVATIONS,
    "logits_via_embedding": True,
    "float32_attention_logits": True,
    "decoder_xattention_internval": 1,
    "dalle_attn_mask": True,
    "dynamic_unk_mask": True,
    "image_tokenizer_type": "vqgan",
    **{f"{part}_pos_emb": "llama_rope" for part in ("text", "image", "audio", "image_history", "audio_history")},
}
# Fields of `t5_config` with the name they have here.
_SAME = (
    "emb_dim", "num_heads", "head_dim", "mlp_dim", "num_encoder_layers", "num_decoder_layers", "qk_norm",
    "image_vocab_size", "audio_vocab_size", "encoder_max_text_length", "decoder_max_text_length", "image_patch_size",
    "audio_patch_size",
)  # fmt: skip
_VIT: dict[str, Any] = {
    "mlp_activations": ["gelu"],
    "dropout_rate": 0.0,
    "dropout_broadcast_dims": [],
    "float32_attention_logits": True,
}
_RESAMPLER: dict[str, Any] = {
    "resampler_type": "perceiver",
    "mlp_activations": ["gelu"],
    **_ACTIVATIONS,
    "droppath_rate": 0.0,
    "layer_drop": 0.0,
    "float32_attention_logits": True,
    "clip_attn_logit": None,
}
_IMAGE_CODEC: dict[str, Any] = {
    "double_z": False,
    "in_channels": 3,
    "out_ch": 3,
    "dropout": 0,
    "checkpoint_path": "",
}
_AUDIO_CODEC: dict[str, Any] = {
    "dropout_rate": 0.0,
    "droppath_rate": 0.0,
    "attention_dropout_rate": 0.0,
    "use_bias": False,
    "act_fn": "relu",
    "output_channel": 1,
    "checkpoint_path": "",
    "use_decoder": True,
}
_NUM_FRAMES = 4


def to_reference(config: ModelConfig) -> dict[str, Any]:
    """The config as the hub's `config.json` has it.

    Raises:
      ConfigError: the structure cannot say it: it derives one rotary scale for images and audio from two lengths.
    """
    return {
        "t5_config": _t5(config),
        "image_history_cfg": _resampler(config.image_resampler),
        "audio_history_cfg": _resampler(config.audio_resampler),
        "freeze_vit": config.freeze_vit,
        "input_modalities": list(config.input_modalities),
        "target_modalities": list(config.target_modalities),
        "sequence_length": {
            "is_training": True,
            "image_input_samples": math.prod(config.image_grid),
            "image_history_input_samples": math.prod(config.image_history_grid),
            "audio_input_samples": math.prod(config.audio_grid),
            "audio_history_input_samples": math.prod(config.audio_history_grid),
            "num_frames": _NUM_FRAMES,
        },
        "image_vqgan": _image_codec(config.image_codec),
        "audio_vqgan": _audio_codec(config.audio_codec),
        "image_vit_cfg": _vit(config.image_vit, patch=config.image_patch_size)
        | {"default_input_size": list(config.image_history_size), "num_pos": config.image_vit.num_positions},
        "audio_vit_cfg": _vit(config.audio_vit, patch=config.audio_patch_size)
        | {"default_input_size": list(config.audio_size), "vit_embed": True, "transpose_input": True},
        **{f"use_{m}_vit": m in config.input_modalities for m in ("image", "audio", "image_history", "audio_history")},
    }


def _t5(config: ModelConfig) -> dict[str, Any]:
    image, codes = math.prod(config.image_grid), _codes(config)
    switches = ("unk_mask_token", "shift_back_input_token")  # known to the original only, so written when on
    return {
        **_T5,
        **{field: True for field in switches if getattr(config, field)},
        **{field: getattr(config, field) for field in _SAME},
        "vocab_size": config.text_vocab_size,
        "encoder_max_image_length": image,
        "encoder_max_audio_length": math.prod(config.audio_grid),
        "decoder_max_image_length": codes,
        "decoder_max_audio_length": math.prod(config.audio_codec.grid),
        "default_image_size": list(config.image_codec.image_size),
        "default_image_vit_size": list(config.image_size),
        "default_image_history_vit_size": list(config.image_history_size),
        "default_audio_size": list(config.audio_codec.spectrogram_size[::-1]),
        "default_audio_vit_size": list(config.audio_size),
        "default_audio_history_vit_size": list(config.audio_history_size),
        "image_vit_patch_size": config.image_patch_size,
        "audio_vit_patch_size": config.audio_patch_size,
    }


def _codes(config: ModelConfig) -> int:
    """The image target's length the rotary scale follows from."""
    image = math.prod(config.image_grid)
    codes = round(config.image_rope_scale**2 * image)
    scales = {"image_rope_scale": config.image_rope_scale}
    if {"audio", "audio_history"} & {*config.input_modalities}:
        scales["audio_rope_scale"] = config.audio_rope_scale
    for field, scale in scales.items():
        if not math.isclose(scale, (codes / image) ** 0.5, rel_tol=1e-9):
            raise ConfigError(
                f"{field} is {scale}; the published structure has sqrt(n / {image} image patches) for a whole n, the "
                "same for images and audio"
            )
    return codes


def _sizes(part: Any, prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{field}": getattr(part, field) for field in ("num_heads", "head_dim", "mlp_dim", "num_layers")}


def _vit(vit: VitConfig, *, patch: int) -> dict[str, Any]:
    return {**_VIT, "emb_dim": vit.emb_dim, **_sizes(vit), "patch_size": patch, "pos_patch_size": patch}


def _resampler(part: ResamplerConfig) -> dict[str, Any]:
    kinds = {"xattn": part.cross_attention, "attn": part.self_attention}
    return {
        **_RESAMPLER,
        "emb_dim": part.emb_dim,
        **_sizes(part),
        "max_frames": part.max_frames,
        "latents_size": part.num_latents,
        "xattention_index": list(part.cross_layers),
        **{f"{name}_qk_norm": kind == "qk_norm" for name, kind in kinds.items()},
        **{f"{name}_scaled_cosine": kind == "scaled_cosine" for name, kind in kinds.items()},
    }


def _image_codec(codec: ImageCodecConfig) -> dict[str, Any]:
    return {
        **_IMAGE_CODEC,
        # The PyTorch port builds its codebook from this field, the original from the next.
        "embed_dim": codec.z_channels,
        "z_channels": codec.z_channels,
        "n_embed": codec.num_codes,
        "resolution": codec.image_size[0],
        "ch": codec.channels,
        "ch_mult": list(codec.multipliers),
        "num_res_blocks": codec.num_res_blocks,
        "attn_resolutions": list(codec.attention_sides),
        "default_input_size": list(codec.image_size),
        "patch_size": [codec.patch_size] * 2,
    }


def _audio_codec(codec: AudioCodecConfig) -> dict[str, Any]:
    halves = {"encoder": codec.encoder, "decoder": codec.decoder}
    return {
        **_AUDIO_CODEC,
        "vocab_size": codec.num_codes,
        "proj_dim": codec.code_dim,
        **{f"{half}_hidden_size": part.emb_dim for half, part in halves.items()},
        **{key: value for half, part in halves.items() for key, value in _sizes(part, f"{half}_").items()},
        "default_input_size": list(codec.spectrogram_size),
        "patch_size": [codec.patch_size] * 2,
    }
