"""The codecs' rows of the table between our parameter names and the published T5X names (see `names.py`)."""

from __future__ import annotations

from collections.abc import Iterable

from uio2.model.parts import AudioCodecConfig, CodecLevel, ImageCodecConfig

IMAGE, IMAGE_T5X = "image_target/codec", "target_encoders_image/discrete_vae"
AUDIO, AUDIO_T5X = "audio_target/codec", "target_encoders_audio/discrete_vae"

AUDIO_PLAIN: dict[str, str] = {
    f"{AUDIO}/{ours}": f"{AUDIO_T5X}/{theirs}"
    for ours, theirs in {
        "codebook/embedding": "quantize/embedding",
        "encoder/patch/kernel": "encoder/embedding/kernel",
        "encoder/patch/bias": "encoder/embedding/bias",
        "encoder/transformer/norm/scale": "encoder/Transformer_0/encoder_norm/scale",
        "encoder/transformer/norm/bias": "encoder/Transformer_0/encoder_norm/bias",
        "encoder/project/kernel": "encoder/encoder_proj/kernel",
        "encoder/norm_out/bias": "encoder/encoder_norm/bias",
        "decoder/expand/kernel": "decoder/decoder_proj/kernel",
        "decoder/transformer/norm/scale": "decoder/Transformer_0/encoder_norm/scale",
        "decoder/transformer/norm/bias": "decoder/Transformer_0/encoder_norm/bias",
        "decoder/unpatch": "decoder/ConvTranspose_0/kernel",
    }.items()
}


def audio_layers(config: AudioCodecConfig) -> dict[str, tuple[str, int]]:
    """Our stacked name -> (T5X name with `{i}` for the layer, number of layers)."""
    attention = "MultiHeadDotProductAttention_0"
    table = {f"attention/{part}/kernel": f"{attention}/{part}/kernel" for part in ("query", "key", "value", "out")}
    for i in (0, 1):
        table |= {f"ln_{i + 1}/{leaf}": f"LayerNormWithBias_{i}/{leaf}" for leaf in ("scale", "bias")}
        table |= {f"fc{i + 1}/{leaf}": f"MlpBlock_0/DenseGeneral_{i}/{leaf}" for leaf in ("kernel", "bias")}
    return {
        f"{AUDIO}/{half}/transformer/blocks/layers/{ours}": (
            f"{AUDIO_T5X}/{half}/Transformer_0/encoderblock_{{i}}/{theirs}",
            sizes.num_layers,
        )
        for half, sizes in (("encoder", config.encoder), ("decoder", config.decoder))
        for ours, theirs in table.items()
    }


def _leaves(ours: str, theirs: str, names: Iterable[str]) -> dict[str, str]:
    return {f"{ours}/{leaf}": f"{theirs}/{leaf}" for leaf in names}


def _conv(ours: str, theirs: str) -> dict[str, str]:
    return _leaves(ours, theirs, ("kernel", "bias"))


def _norm(ours: str, theirs: str) -> dict[str, str]:
    return _leaves(ours, theirs, ("scale", "bias"))


def _block(ours: str, theirs: str, *, shortcut: bool) -> dict[str, str]:
    table = _conv(f"{ours}/shortcut", f"{theirs}/nin_shortcut") if shortcut else {}
    for i in (1, 2):
        table |= _norm(f"{ours}/norm{i}", f"{theirs}/norm{i}") | _conv(f"{ours}/conv{i}", f"{theirs}/conv{i}")
    return table


def _attention(ours: str, theirs: str) -> dict[str, str]:
    table = _norm(f"{ours}/norm", f"{theirs}/norm")
    for part, name in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "proj_out")):
        table |= _conv(f"{ours}/{part}", f"{theirs}/{name}")
    return table


def _level(ours: str, theirs: str, level: CodecLevel, *, blocks: int) -> dict[str, str]:
    table: dict[str, str] = {}
    for j in range(blocks):
        wider = j == 0 and level.features_in != level.features_out
        table |= _block(f"{ours}/blocks/{j}", f"{theirs}_block_{j}", shortcut=wider)
        if level.attention:
            table |= _attention(f"{ours}/attentions/{j}", f"{theirs}_attn_{j}")
    return table


def _half(half: str, way: str, levels: tuple[CodecLevel, ...], *, blocks: int) -> dict[str, str]:
    table = _norm(f"{half}/norm_out", f"{half}/norm_out") | _attention(f"{half}/middle/attention", f"{half}/mid_attn_1")
    for place in ("conv_in", "conv_out"):
        table |= _conv(f"{half}/{place}", f"{half}/{place}")
    for i in (1, 2):
        table |= _block(f"{half}/middle/block{i}", f"{half}/mid_block_{i}", shortcut=False)
    for i, level in enumerate(levels):
        table |= _level(f"{half}/levels/{i}", f"{half}/{way}_{i}", level, blocks=blocks)
    for i in range(len(levels) - 1):
        table |= _conv(f"{half}/{way}samples/{i}", f"{half}/{way}_{i}_{way}sample/conv")
    return table


def image_plain(config: ImageCodecConfig) -> dict[str, str]:
    """Our name -> T5X name. Levels of the decoder count from the lowest resolution on both sides."""
    table = {"codebook/embedding": "quantize/embedding"}
    table |= _conv("quant_conv", "quant_conv") | _conv("post_quant_conv", "post_quant_conv")
    table |= _half("encoder", "down", config.levels_down, blocks=config.num_res_blocks)
    table |= _half("decoder", "up", config.levels_up, blocks=config.num_res_blocks + 1)
    return {f"{IMAGE}/{ours}": f"{IMAGE_T5X}/{theirs}" for ours, theirs in table.items()}
