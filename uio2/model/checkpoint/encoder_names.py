"""T5X names of what stands before the encoder: vision transformers, projections, resamplers (spec: MODEL.md
section 1). The original calls the spectrograms' transformer `image_encoder` as well.
"""

from __future__ import annotations

from uio2.model.checkpoint.rows import Rows, Stacks, attention_rows, dense_rows, norm_rows
from uio2.model.config import ModelConfig
from uio2.model.parts import ResamplerConfig

KINDS = ("image", "audio")


def vit_path(config: ModelConfig, kind: str) -> str | None:
    """Where the vision transformer is: under the first of its users, None without any."""
    if kind in config.input_modalities:
        return f"input_{kind}_encoder/image_encoder/vision_transformer"
    if f"{kind}_history" in config.input_modalities:
        return f"input_encoders_{kind}_history/vit_image_encoder/vision_transformer"
    return None


def input_names(config: ModelConfig) -> Rows:
    """Parameters that are not stacked."""
    rows: Rows = {}
    for kind in KINDS:
        if path := vit_path(config, kind):
            rows |= _image_vit(path) if kind == "image" else _audio_vit(path)
        if kind in config.input_modalities:
            rows[f"{kind}_input/modality"] = f"input_{kind}_encoder/modality_embedding"
            rows[f"{kind}_input/projection/kernel"] = f"input_{kind}_encoder/projection/kernel"
        if f"{kind}_history" in config.input_modalities:
            resampler = config.image_resampler if kind == "image" else config.audio_resampler
            rows |= _history(f"{kind}_history", f"input_encoders_{kind}_history", resampler)
    return rows


def input_stacks(config: ModelConfig) -> Stacks:
    """Blocks of the vision transformers."""
    stacks: Stacks = {}
    for kind in KINDS:
        if path := vit_path(config, kind):
            vit = config.image_vit if kind == "image" else config.audio_vit
            rows = _vit_block(f"{path}/Transformer_0/ResidualAttentionBlock_{{i}}", kind)
            stacks |= {f"{kind}_vit/blocks/layers/{name}": (theirs, vit.num_layers) for name, theirs in rows.items()}
    return stacks


def _image_vit(path: str) -> Rows:
    return {
        "image_vit/patch/kernel": f"{path}/embedding/kernel",
        "image_vit/class_embedding": f"{path}/class_embedding",
        "image_vit/positions": f"{path}/positional_embedding",
        **norm_rows("image_vit/pre_ln", f"{path}/pre_ln"),
    }


def _audio_vit(path: str) -> Rows:
    return {
        **dense_rows("audio_vit/patch", f"{path}/embedding"),
        "audio_vit/class_embedding": f"{path}/cls_token",
        "audio_vit/distillation_embedding": f"{path}/dist_token",
        "audio_vit/positions": f"{path}/pos_embed",
    }


def _vit_block(block: str, kind: str) -> Rows:
    norms, mlp = (("ln_1", "ln_2"), ("c_fc", "c_proj")) if kind == "image" else (("norm1", "norm2"), ("fc1", "fc2"))
    rows = attention_rows("attention", f"{block}/MultiHeadDotProductAttention_0", norms=False, bias=True)
    for ours, theirs in zip(("fc", "proj"), mlp, strict=True):
        rows |= dense_rows(ours, f"{block}/MLP_0/{theirs}")
    for ours, theirs in zip(("ln_1", "ln_2"), norms, strict=True):
        rows |= norm_rows(ours, f"{block}/{theirs}")
    return rows


def _history(ours: str, theirs: str, config: ResamplerConfig) -> Rows:
    resampler = f"{theirs}/resampler/PerceiverResampler_0"
    rows = {
        f"{ours}/modality": f"{theirs}/modality_embedding",
        f"{ours}/pre_projection/kernel": f"{theirs}/pre_projection/kernel",
        f"{ours}/post_projection/kernel": f"{theirs}/post_projection/kernel",
        f"{ours}/resampler/latents": f"{resampler}/resampler_latents",
        f"{ours}/resampler/context_norm/scale": f"{resampler}/context_norm/scale",
        f"{ours}/resampler/norm/scale": f"{resampler}/perceiver_norm/scale",
    }
    for i in range(config.num_layers):
        rows |= _resampler_layer(f"{ours}/resampler/layers/{i}", f"{resampler}/layers_{i}", config, i)
    return rows


def _resampler_layer(ours: str, theirs: str, config: ResamplerConfig, i: int) -> Rows:
    cross = i in config.cross_layers
    kind, name = (config.cross_attention, "xattention") if cross else (config.self_attention, "attention")
    rows = {
        f"{ours}/attention_norm/scale": f"{theirs}/pre_{name}_layer_norm/scale",
        f"{ours}/mlp_norm/scale": f"{theirs}/pre_mlp_layer_norm/scale",
        f"{ours}/mlp/wi/kernel": f"{theirs}/mlp/wi/kernel",
        f"{ours}/mlp/wo/kernel": f"{theirs}/mlp/wo/kernel",
    }
    if kind == "scaled_cosine":
        rows |= attention_rows(f"{ours}/attention/projections", f"{theirs}/{name}", norms=False)
        return rows | {f"{ours}/attention/logit_scale": f"{theirs}/{name}/logit_scale"}
    return rows | attention_rows(f"{ours}/attention", f"{theirs}/{name}", norms=kind == "qk_norm")
