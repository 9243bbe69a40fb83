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
from uio2.model.codecs.codebook import POSITIONS_AT_ONCE, nearest
from uio2.model.codecs.convolution import Conv, GroupNorm, UpsampleConv
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
    np.testing.assert_allclose(z.reshape(1, 32, 32, 4), stored["image_vqgan/pre_quant_z"], atol=5e-5)
    codes = np.asarray(codec.quantise(z))
    clear = stored["image_vqgan/code_margin_d2_minus_d1"].reshape(codes.shape) > 1e-4
    np.testing.assert_array_equal(codes[clear], stored["image_vqgan/codes"].reshape(codes.shape)[clear])
    seeded = seeded_codes("vqgan/codes", (1, 1024), 16384)
    decoded = np.asarray(jax.jit(lambda s, c: nnx.merge(graph, s).decode(c))(state, seeded))
    expected = stored["image_vqgan/decoded_from_seeded_codes"]
    np.testing.assert_allclose(decoded.ravel()[::48], expected, atol=5e-5)


@needs_golden
def test_audio_codec_agrees(golden_config, stored):
    codec = with_golden_parameters(lambda rngs: AudioCodec(golden_config.audio_codec, rngs=rngs))
    spectrograms = seeded("audio_vqgan/spec", (2, 128, 256, 1)).swapaxes(1, 2)
    z = np.asarray(codec.latents(spectrograms))
    expected = stored["audio_vqgan/pre_quant_z(input is [freq=128,time=256])"]
    np.testing.assert_allclose(network_order(z), expected, atol=5e-5)
    codes = np.asarray(codec.encode(spectrograms))
    clear = stored["audio_vqgan/code_margin"].reshape(2, 512) > 1e-4
    expected = stored["audio_vqgan/codes"].reshape(2, 512)
    np.testing.assert_array_equal(network_order(codes)[clear], expected[clear])
    ours = seeded_codes("audio_vqgan/codes", (2, 512), 8192).reshape(2, 16, 32).swapaxes(1, 2).reshape(2, 512)
    decoded = np.asarray(codec.decode(ours)).swapaxes(1, 2)
    np.testing.assert_allclose(decoded.ravel()[::16], stored["audio_vqgan/decoded_from_seeded_codes"], atol=5e-5)


@needs_golden
def test_fixed_positions_agree(stored):
    np.testing.assert_allclose(sincos_table((16, 32), features=64), stored["sincos2d/emb64_128x256_p8"], atol=2e-6)


def random(shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def jitted(codec: nnx.Module, method: str):
    """A method of the codec as a pure function of its parameters."""
    graph, state = nnx.split(codec)
    apply = jax.jit(lambda state, x: getattr(nnx.merge(graph, state), method)(x))
    return lambda x: apply(state, x)


@pytest.mark.parametrize(
    ("kind", "config", "shape", "positions"),
    [
        (ImageCodec, TINY_IMAGE, (2, 12, 8, 3), 24),
        (ImageCodec, dataclasses.replace(TINY_IMAGE, multipliers=(1, 2, 1)), (3, 12, 8, 3), 6),
        (AudioCodec, TINY_AUDIO, (2, 20, 8, 1), 10),
    ],
    ids=["image", "image of three levels", "audio"],
)
def test_codes_are_in_range_and_both_ways_are_deterministic_under_jit(kind, config, shape, positions):
    codec = kind(config, rngs=nnx.Rngs(0))
    encode, decode = jitted(codec, "encode"), jitted(codec, "decode")
    inputs = random(shape)
    codes = np.asarray(encode(inputs))
    assert codes.shape == (shape[0], positions)
    assert codes.dtype == np.int32
    assert codes.min() >= 0
    assert codes.max() < config.num_codes
    assert len(np.unique(codes)) > 1
    back = np.asarray(decode(codes))
    assert back.shape == shape
    assert back.dtype == np.float32
    np.testing.assert_array_equal(codes, encode(inputs))
    np.testing.assert_array_equal(back, decode(codes))
    np.testing.assert_allclose(back, codec.decode(codes), atol=1e-4)


def test_an_image_is_coded_alone_whatever_is_beside_it_in_the_batch():
    codec = ImageCodec(TINY_IMAGE, rngs=nnx.Rngs(0))
    images = random((3, 12, 8, 3))
    np.testing.assert_allclose(codec.latents(images)[1:2], codec.latents(images[1:2]), atol=1e-5)


def test_a_code_outside_the_codebook_stands_for_nothing():
    for codec, positions in (
        (ImageCodec(TINY_IMAGE, rngs=nnx.Rngs(0)), 24),
        (AudioCodec(TINY_AUDIO, rngs=nnx.Rngs(0)), 10),
    ):
        codes = np.zeros((1, positions), np.int32)
        below, above = (np.asarray(codec.decode(codes + wrong)) for wrong in (-2, codec.config.num_codes))
        np.testing.assert_array_equal(below, above)
        assert np.isfinite(below).all()


def test_inputs_of_another_size_are_refused():
    with pytest.raises(ConfigError, match=r"image_size asks for \[b, 12, 8, 3\]"):
        ImageCodec(TINY_IMAGE, rngs=nnx.Rngs(0)).encode(random((1, 8, 12, 3)))
    with pytest.raises(ConfigError, match=r"20 \(time\), 8 \(frequency\)"):
        AudioCodec(TINY_AUDIO, rngs=nnx.Rngs(0)).encode(random((1, 8, 20, 1)))


@pytest.mark.parametrize(
    ("config", "change", "named"),
    [
        (TINY_IMAGE, {"image_size": (12, 9)}, "image_size"),
        (TINY_IMAGE, {"channels": 24}, "32"),
        (TINY_AUDIO, {"spectrogram_size": (8, 18)}, "spectrogram_size"),
        (TINY_AUDIO, {"encoder": dataclasses.replace(_TINY_HALF, emb_dim=18)}, "emb_dim"),
    ],
)
def test_sizes_that_cannot_work_are_refused(config, change, named):
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(config, **change)


def test_spectrogram_codec_equals_its_frequency_first_form():
    """That form: transposed spectrogram, patch convolution, grid along time first, transposed convolution."""
    codec = AudioCodec(TINY_AUDIO, rngs=nnx.Rngs(0))
    (rows, columns), side = TINY_AUDIO.grid, TINY_AUDIO.patch_size
    permutation = np.arange(rows * columns).reshape(rows, columns).T.ravel()  # token -> place in the network's grid

    def embed(patch: nnx.Module) -> np.ndarray:
        kernel = patch.kernel[...].reshape(side, side, 1, -1)
        x = random((2, 20, 8, 1)).swapaxes(1, 2)
        y = jax.lax.conv_general_dilated(x, kernel, (side, side), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return np.asarray(y.reshape(2, rows * columns, -1) + patch.bias[...])

    encoder = codec.encoder
    hidden = encoder.transformer(embed(encoder.patch)[:, permutation])
    z = encoder.norm_out(encoder.project(jax.nn.relu(hidden)))
    np.testing.assert_allclose(codec.latents(random((2, 20, 8, 1))), z, atol=1e-5)
    table = sincos_table(TINY_AUDIO.grid, features=16)
    np.testing.assert_array_equal(encoder.transformer.positions(), table[permutation])

    codes = np.random.default_rng(1).integers(0, TINY_AUDIO.num_codes, (2, rows * columns)).astype(np.int32)
    rows_of_codebook = np.asarray(codec.codebook(codes))
    unit = rows_of_codebook / np.linalg.norm(rows_of_codebook, axis=-1, keepdims=True)
    hidden = np.asarray(codec.decoder.transformer(codec.decoder.expand(jnp.asarray(unit))))
    grid = hidden.reshape(2, columns, rows, -1).swapaxes(1, 2)
    expected = jax.lax.conv_transpose(
        grid, codec.decoder.unpatch[...], (side, side), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(np.asarray(codec.decode(codes)).swapaxes(1, 2), expected, atol=1e-5)


def test_bfloat16_spectrogram_codec_stays_near_float32():
    exact, short = (AudioCodec(TINY_AUDIO, dtype=dtype, rngs=nnx.Rngs(0)) for dtype in ("float32", "bfloat16"))
    spectrograms, codes = random((2, 20, 8, 1)), np.arange(20).reshape(2, 10).astype(np.int32)
    for method, x in (("latents", spectrograms), ("decode", codes)):
        first, second = (np.asarray(getattr(codec, method)(x)) for codec in (exact, short))
        assert second.dtype == np.float32
        assert 0 < np.abs(first - second).max() < 0.1 * np.abs(first).max(), method


def test_scan_and_unrolled_layers_of_the_spectrogram_codec_agree():
    codecs = [AudioCodec(TINY_AUDIO, unroll=unroll, rngs=nnx.Rngs(0)) for unroll in (1, 0)]
    np.testing.assert_allclose(*(codec.latents(random((1, 20, 8, 1))) for codec in codecs), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 7, 4), (3, POSITIONS_AT_ONCE, 2), (POSITIONS_AT_ONCE + 1, 2, 3)])
def test_nearest_is_the_closest_row_in_any_chunking(shape):
    z, codebook = random(shape), random((33, shape[-1]), seed=1)
    distances = np.square(z.astype(np.float64)[..., None, :] - codebook).sum(-1)
    np.testing.assert_array_equal(nearest(z, codebook=codebook), distances.argmin(-1))


def test_nearest_takes_the_first_of_equal_rows():
    codebook = np.repeat(random((5, 4)), 2, axis=0)
    np.testing.assert_array_equal(nearest(codebook[None], codebook=codebook)[0], np.arange(10) // 2 * 2)


def test_upsampling_equals_doubled_pixels_and_a_convolution():
    layer = UpsampleConv(6, rngs=nnx.Rngs(0))
    x = random((2, 5, 4, 6))
    doubled = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(layer(x), Conv.__call__(layer, doubled), atol=1e-5)


def test_downsampling_pads_after_an_even_side():
    layer = Conv(2, 3, size=3, stride=2, rngs=nnx.Rngs(0))
    x = random((1, 6, 4, 2))
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    taps = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    expected = np.einsum("bhwirc,rcio->bhwo", taps, np.asarray(layer.kernel[...]))
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_group_norm_normalises_over_places_and_neighbouring_channels():
    x = 3 + 2 * random((2, 5, 4, 64))
    groups = x.astype(np.float64).reshape(2, 20, 32, 2)
    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
    np.testing.assert_allclose(GroupNorm(64)(x), expected, atol=1e-5)
