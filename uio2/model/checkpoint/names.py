"""One table between our parameter names and the published T5X names (spec: layout/params_*.json).

Our layers are stacked on a leading axis; T5X has one entry per layer, written here as `{i}`. Every other
layout of the parameters is derived from this table.
"""

from __future__ import annotations

from collections.abc import Iterator

from uio2.model.config import ModelConfig

_VIT = "input_image_encoder/image_encoder/vision_transformer"

PLAIN: dict[str, str] = {
    "text_embedder/embedding": "text_token_embedder/embedding",
    "text_input_modality": "input_text_encoder/modality_embedding",
    "text_target_modality": "target_encoders_text/modality_embedding",
    "encoder/norm/scale": "encoder/encoder_norm/scale",
    "decoder/norm/scale": "decoder/decoder_norm/scale",
}
IMAGE: dict[str, str] = {
    "image_input/modality": "input_image_encoder/modality_embedding",
    "image_input/projection/kernel": "input_image_encoder/projection/kernel",
    "image_input/vit/patch/kernel": f"{_VIT}/embedding/kernel",
    "image_input/vit/class_embedding": f"{_VIT}/class_embedding",
    "image_input/vit/positions": f"{_VIT}/positional_embedding",
    "image_input/vit/pre_ln/scale": f"{_VIT}/pre_ln/scale",
    "image_input/vit/pre_ln/bias": f"{_VIT}/pre_ln/bias",
}


def _attention(ours: str, theirs: str, *, norms: bool, bias: bool) -> dict[str, str]:
    parts = {
        f"{ours}/{p}/{leaf}": f"{theirs}/{p}/{leaf}"
        for p in ("query", "key", "value", "out")
        for leaf in (("kernel", "bias") if bias else ("kernel",))
    }
    if norms:
        parts |= {f"{ours}/{p}_norm/scale": f"{theirs}/{p}_norm/scale" for p in ("query", "key")}
    return parts


def _transformer_layers(config: ModelConfig) -> dict[str, tuple[str, int]]:
    encoder, decoder = "encoder/layers_{i}", "decoder/layers_{i}"
    enc = _attention("attention", f"{encoder}/attention", norms=config.qk_norm, bias=False)
    enc |= {
        "attention_norm/scale": f"{encoder}/pre_attention_layer_norm/scale",
        "mlp_norm/scale": f"{encoder}/pre_mlp_layer_norm/scale",
    }
    dec = _attention("self_attention", f"{decoder}/self_attention", norms=config.qk_norm, bias=False)
    dec |= _attention("cross_attention", f"{decoder}/encoder_decoder_attention", norms=config.qk_norm, bias=False)
    dec |= {
        "self_norm/scale": f"{decoder}/pre_self_attention_layer_norm/scale",
        "cross_norm/scale": f"{decoder}/pre_cross_attention_layer_norm/scale",
        "mlp_norm/scale": f"{decoder}/pre_mlp_layer_norm/scale",
    }
    for table, where in ((enc, encoder), (dec, decoder)):
        table |= {f"mlp/{w}/kernel": f"{where}/mlp/{w}/kernel" for w in ("wi_0", "wi_1", "wo")}
    layers = {f"encoder/blocks/layers/{k}": (v, config.num_encoder_layers) for k, v in enc.items()}
    return layers | {f"decoder/blocks/layers/{k}": (v, config.num_decoder_layers) for k, v in dec.items()}


def _vit_layers(config: ModelConfig) -> dict[str, tuple[str, int]]:
    block = f"{_VIT}/Transformer_0/ResidualAttentionBlock_{{i}}"
    table = _attention("attention", f"{block}/MultiHeadDotProductAttention_0", norms=False, bias=True)
    for leaf in ("kernel", "bias"):
        table[f"fc/{leaf}"] = f"{block}/MLP_0/c_fc/{leaf}"
        table[f"proj/{leaf}"] = f"{block}/MLP_0/c_proj/{leaf}"
    for norm in ("ln_1", "ln_2"):
        table |= {f"{norm}/{leaf}": f"{block}/{norm}/{leaf}" for leaf in ("scale", "bias")}
    return {f"image_input/vit/blocks/layers/{k}": (v, config.image_vit.num_layers) for k, v in table.items()}


def t5x_names(config: ModelConfig) -> Iterator[tuple[str, str | tuple[str, ...]]]:
    """Pairs of our name and the T5X name, or the T5X names of a stacked parameter's layers in order."""
    yield from PLAIN.items()
    stacked = _transformer_layers(config)
    if "image" in config.input_modalities:
        yield from IMAGE.items()
        stacked |= _vit_layers(config)
    for ours, (theirs, length) in stacked.items():
        yield ours, tuple(theirs.format(i=i) for i in range(length))
