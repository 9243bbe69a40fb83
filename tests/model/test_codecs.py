"""The image and spectrogram codecs: published names, reference numbers, grids and orders, determinism."""

from __future__ import annotations

import dataclasses
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.model.reference import GOLDEN, SPEC, needs_golden, parameter, seeded
from uio2.model import ModelConfig
from uio2.model.checkpoint import codec_names
from uio2.model.codecs import AudioCodec, ImageCodec
from uio2.model.codecs.audio import sincos_table
from uio2.model.codecs.codebook import nearest
from uio2.model.parts import AudioCodecConfig, CodecTransformerConfig, ConfigError, ImageCodecConfig

TINY_IMAGE = ImageCodecConfig(
    channels=32, multipliers=(2, 1), num_res_blocks=1, z_channels=3, num_codes=50, image_size=(12, 8),
    attention_sides=(6,),
)  # fmt: skip
_TINY_HALF = CodecTransformerConfig(emb_dim=16, num_heads=2, head_dim=4, mlp_dim=24, num_layers=2)
TINY_AUDIO = AudioCodecConfig(
    encoder=_TINY_HALF, decoder=dataclasses.replace(_TINY_HALF, emb_dim=24, num_layers=3), code_dim=4, num_codes=30,
    spectrogram_size=(8, 20), patch_size=4,
)  # fmt: skip


def state_of(codec: nnx.Module) -> dict[str, nnx.Variable]:
    """Parameters by '/'-joined path below the codec."""
    return {"/".join(map(str, key)): leaf for key, leaf in nnx.to_flat_state(nnx.state(codec, nnx.Param))}


def t5x_names(codec: ImageCodec | AudioCodec) -> dict[str, tuple[str, ...]]:
    """Our path below the codec -> its T5X paths, one per layer where layers are stacked."""
    if isinstance(codec, ImageCodec):
        table, prefix = codec_names.image_plain(codec.config), codec_names.IMAGE
        named = {ours: (theirs,) for ours, theirs in table.items()}
    else:
        prefix = codec_names.AUDIO
        named = {ours: (theirs,) for ours, theirs in codec_names.AUDIO_PLAIN.items()}
        for ours, (theirs, length) in codec_names.audio_layers(codec.config).items():
            named[ours] = tuple(theirs.format(i=i) for i in range(length))
    return {ours.removeprefix(f"{prefix}/"): theirs for ours, theirs in named.items()}


def with_golden_parameters(make) -> ImageCodec | AudioCodec:
    """The codec with every parameter as the formula over its T5X path gives it."""
    codec = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    names = t5x_names(codec)
    graph, state = nnx.split(codec)
    filled = []
    for key, leaf in nnx.to_flat_state(state):
        path = "/".join(map(str, key))
        stacked = "/layers/" in path
        values = [parameter(theirs, leaf.shape[1:] if stacked else leaf.shape) for theirs in names[path]]
        filled.append((key, leaf.replace(jnp.stack(values) if stacked else jnp.asarray(values[0]))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def seeded_codes(name: str, shape: tuple[int, ...], high: int) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, high, shape).astype(np.int32)


def seeded_uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return np.float32(rng.random(shape, dtype=np.float32) * 2 - 1)


def network_order(tokens: np.ndarray) -> np.ndarray:
    """From token order (32 time, 16 frequency) to the published network's (16 frequency, 32 time)."""
    return tokens.reshape(tokens.shape[0], 32, 16, -1).swapaxes(1, 2).reshape(tokens.shape)


@pytest.fixture(scope="module")
def golden_config() -> ModelConfig:
    return ModelConfig.from_reference(json.loads((GOLDEN / "config.json").read_text()))


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "intermediates.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if "vqgan" in name or "sincos" in name}


@needs_golden
@pytest.mark.parametrize("size", ["tiny", "base", "large", "xl", "xxl"])
def test_parameter_names_and_shapes_are_the_published_ones(size):
    published = json.loads((SPEC / "layout" / f"params_{size}.json").read_text())["params"]
    config, ours = ModelConfig.preset(size), {}
    for make in (
        lambda: ImageCodec(config.image_codec, rngs=nnx.Rngs(0)),
        lambda: AudioCodec(config.audio_codec, rngs=nnx.Rngs(0)),
    ):
        codec = nnx.eval_shape(make)
        names = t5x_names(codec)
        shapes = {path: tuple(leaf.shape) for path, leaf in state_of(codec).items()}
        assert shapes.keys() == names.keys()
        for path, shape in shapes.items():
            ours |= dict.fromkeys(names[path], shape[1:] if "/layers/" in path else shape)
    assert ours == {path: tuple(p["shape"]) for path, p in published.items() if "/discrete_vae/" in path}


@needs_golden
def test_image_codec_agrees(golden_config, stored):
    codec = with_golden_parameters(lambda rngs: ImageCodec(golden_config.image_codec, rngs=rngs))
    graph, state = nnx.split(codec)
    images = seeded_uniform("vqgan/image", (1, 256, 256, 3))
    z = np.asarray(jax.jit(lambda s, x: nnx.merge(graph, s).latents(x))(state, images))
    np.testing.assert_allclose(z.reshape(1, 32, 32, 4), stored["image_vqgan/pre_quant_z"], atol=2e-4)
    codes = np.asarray(codec.quantise(z))
    clear = stored["image_vqgan/code_margin_d2_minus_d1"].reshape(codes.shape) > 1e-4
    np.testing.assert_array_equal(codes[clear], stored["image_vqgan/codes"].reshape(codes.shape)[clear])
    seeded = seeded_codes("vqgan/codes", (1, 1024), 16384)
    decoded = np.asarray(jax.jit(lambda s, c: nnx.merge(graph, s).decode(c))(state, seeded))
    expected = stored["image_vqgan/decoded_from_seeded_codes"]
    np.testing.assert_allclose(decoded.ravel()[::48], expected, atol=2e-4)


@needs_golden
def test_audio_codec_agrees(golden_config, stored):
    codec = with_golden_parameters(lambda rngs: AudioCodec(golden_config.audio_codec, rngs=rngs))
    spectrograms = seeded("audio_vqgan/spec", (2, 128, 256, 1)).swapaxes(1, 2)
    z = np.asarray(codec.latents(spectrograms))
    expected = stored["audio_vqgan/pre_quant_z(input is [freq=128,time=256])"]
    np.testing.assert_allclose(network_order(z), expected, atol=2e-4)
    codes = np.asarray(codec.encode(spectrograms))
    clear = stored["audio_vqgan/code_margin"].reshape(2, 512) > 1e-4
    expected = stored["audio_vqgan/codes"].reshape(2, 512)
    np.testing.assert_array_equal(network_order(codes)[clear], expected[clear])
    ours = seeded_codes("audio_vqgan/codes", (2, 512), 8192).reshape(2, 16, 32).swapaxes(1, 2).reshape(2, 512)
    decoded = np.asarray(codec.decode(ours)).swapaxes(1, 2)
    np.testing.assert_allclose(decoded.ravel()[::16], stored["audio_vqgan/decoded_from_seeded_codes"], atol=2e-4)


@needs_golden
def test_fixed_positions_agree(stored):
    np.testing.assert_allclose(sincos_table((16, 32), features=64), stored["sincos2d/emb64_128x256_p8"], atol=2e-6)
