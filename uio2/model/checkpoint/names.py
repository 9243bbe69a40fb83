"""One table between our parameter names and the published T5X names (spec: layout/params_*.json).

Our layers are stacked on a leading axis; T5X has one entry per layer, written here as `{i}`. Every other
layout of the parameters is derived from this table. Each part of the model has its rows: the transformer here, what
stands before it in `encoder_names.py`, the codecs in `codec_names.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from uio2.model.checkpoint import codec_names
from uio2.model.checkpoint.encoder_names import input_names, input_stacks
from uio2.model.checkpoint.rows import Rows, Stacks, attention_rows
from uio2.model.config import ModelConfig


def _plain(config: ModelConfig) -> Rows:
    rows = {"encoder/norm/scale": "encoder/encoder_norm/scale", "decoder/norm/scale": "decoder/decoder_norm/scale"}
    if "text" in {*config.input_modalities, *config.target_modalities}:
        rows["text_embedder/embedding"] = "text_token_embedder/embedding"
    if "text" in config.input_modalities:
        rows["text_input_modality"] = "input_text_encoder/modality_embedding"
    if "text" in config.target_modalities:
        rows["text_target_modality"] = "target_encoders_text/modality_embedding"
    for kind in ("image", "audio"):
        if kind in config.target_modalities:
            rows[f"{kind}_embedder/embedding"] = f"{kind}_token_embedder/embedding"
            rows[f"{kind}_target/modality"] = f"target_encoders_{kind}/modality_embedding"
    return rows


def _transformer_layers(config: ModelConfig) -> Stacks:
    encoder, decoder = "encoder/layers_{i}", "decoder/layers_{i}"
    enc = attention_rows("attention", f"{encoder}/attention", norms=config.qk_norm)
    enc |= {
        "attention_norm/scale": f"{encoder}/pre_attention_layer_norm/scale",
        "mlp_norm/scale": f"{encoder}/pre_mlp_layer_norm/scale",
    }
    dec = attention_rows("self_attention", f"{decoder}/self_attention", norms=config.qk_norm)
    dec |= attention_rows("cross_attention", f"{decoder}/encoder_decoder_attention", norms=config.qk_norm)
    dec |= {
        "self_norm/scale": f"{decoder}/pre_self_attention_layer_norm/scale",
        "cross_norm/scale": f"{decoder}/pre_cross_attention_layer_norm/scale",
        "mlp_norm/scale": f"{decoder}/pre_mlp_layer_norm/scale",
    }
    for table, where in ((enc, encoder), (dec, decoder)):
        table |= {f"mlp/{w}/kernel": f"{where}/mlp/{w}/kernel" for w in ("wi_0", "wi_1", "wo")}
    layers = {f"encoder/blocks/layers/{k}": (v, config.num_encoder_layers) for k, v in enc.items()}
    return layers | {f"decoder/blocks/layers/{k}": (v, config.num_decoder_layers) for k, v in dec.items()}


def t5x_names(config: ModelConfig) -> Iterator[tuple[str, str | tuple[str, ...]]]:
    """Pairs of our name and the T5X name, or the T5X names of a stacked parameter's layers in order."""
    yield from (_plain(config) | input_names(config)).items()
    stacks = _transformer_layers(config) | input_stacks(config)
    if "image" in config.target_modalities:
        yield from codec_names.image_plain(config.image_codec).items()
    if "audio" in config.target_modalities:
        yield from codec_names.AUDIO_PLAIN.items()
        stacks |= codec_names.audio_layers(config.audio_codec)
    for ours, (theirs, length) in stacks.items():
        yield ours, tuple(theirs.format(i=i) for i in range(length))
