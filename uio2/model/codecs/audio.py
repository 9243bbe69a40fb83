"""The spectrogram ViT-VQGAN (Yu et al. 2022, arXiv:2110.04627; spec: MODEL.md sections 6 and 10).

The published network sees a spectrogram as [frequency, time] and numbers its patches along time first; the batch
carries [time, frequency] and the token sequence runs along frequency first. A transformer does not care in which order
its tokens come as long as each has its own position vector, so everything here is in token order and only the fixed
position table and the inside of a patch are turned: callers and activations are never transposed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from uio2.model.attention import Attention
from uio2.model.codecs.codebook import nearest
from uio2.model.layers import Dense, Embedding, LayerNorm, fan_in_truncated
from uio2.model.parts import AudioCodecConfig, CodecTransformerConfig, ConfigError
from uio2.model.stack import Stack

NORM_EPSILON = 1e-6
UNIT_EPSILON = 1e-12
BASE = 10000.0


def sincos_table(grid: tuple[int, int], *, features: int) -> np.ndarray:
    """Fixed positions of a row-major grid, float32 [rows * columns, features].

    The first half of a row tells the column, the second half the row; each is [sin, cos] of
    position / 10000^(k / (features / 4)) for k = 0 .. features / 4 - 1 (section 10).
    """
    frequency = BASE ** (-np.arange(features // 4) / (features / 4))

    def half(position: np.ndarray) -> np.ndarray:
        angle = position.reshape(-1, 1) * frequency
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    row, column = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    return np.concatenate([half(column), half(row)], axis=1).astype(np.float32)


def _unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Length one, float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + UNIT_EPSILON)


class CodecBlock(nnx.Module):
    """x + attention(norm(x)); x + mlp(norm(x)): attention without biases, mlp with biases and relu."""

    def __init__(self, config: CodecTransformerConfig, *, rngs: nnx.Rngs):
        self.ln_1 = LayerNorm(config.emb_dim, epsilon=NORM_EPSILON)
        self.attention = Attention(
            config.emb_dim, heads=config.num_heads, head_dim=config.head_dim, qk_norm=False, rngs=rngs
        )
        self.ln_2 = LayerNorm(config.emb_dim, epsilon=NORM_EPSILON)
        self.fc1 = Dense(config.emb_dim, config.mlp_dim, bias=True, rngs=rngs)
        self.fc2 = Dense(config.mlp_dim, config.emb_dim, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        y = self.ln_1(x)
        x = x + self.attention(y, y, mask=jnp.ones((x.shape[0], x.shape[1], x.shape[1]), bool))
        return x + self.fc2(jax.nn.relu(self.fc1(self.ln_2(x))))


class CodecTransformer(nnx.Module):
    """Adds the positions, runs the blocks, normalises."""

    def __init__(self, config: CodecTransformerConfig, *, grid: tuple[int, int], unroll: int, rngs: nnx.Rngs):
        self.blocks = Stack(lambda r: CodecBlock(config, rngs=r), length=config.num_layers, unroll=unroll, rngs=rngs)
        self.norm = LayerNorm(config.emb_dim, epsilon=NORM_EPSILON)
        self.features = config.emb_dim
        self.grid = grid

    def positions(self) -> Float[Array, "n d"]:
        """The table of the network's (frequency, time) grid in token order: time, then frequency."""
        table = sincos_table(self.grid, features=self.features)
        return jnp.asarray(table.reshape(*self.grid, -1).swapaxes(0, 1).reshape(table.shape))

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x, _ = self.blocks.scan(lambda block, h: block(h), x + self.positions().astype(x.dtype))
        return self.norm(x)


class AudioEncoder(nnx.Module):
    """Patches in token order -> code_dim numbers each."""

    def __init__(self, config: AudioCodecConfig, *, unroll: int, rngs: nnx.Rngs):
        width = config.encoder.emb_dim
        self.patch = Dense(config.patch_size**2, width, bias=True, rngs=rngs)
        self.transformer = CodecTransformer(config.encoder, grid=config.grid, unroll=unroll, rngs=rngs)
        self.project = Dense(width, config.code_dim, rngs=rngs)
        self.norm_out = LayerNorm(config.code_dim, epsilon=NORM_EPSILON, scale=False)

    def __call__(self, patches: Float[Array, "b n p"]) -> Float[Array, "b n z"]:
        return self.norm_out(self.project(jax.nn.relu(self.transformer(self.patch(patches)))))


class AudioDecoder(nnx.Module):
    """Unit vectors in token order -> patches.

    The last layer is published as a transposed convolution whose stride is its size: one matrix product per patch
    with the kernel [frequency, time, in, 1] turned round along both sides (section 10).
    """

    def __init__(self, config: AudioCodecConfig, *, unroll: int, rngs: nnx.Rngs):
        width, side = config.decoder.emb_dim, config.patch_size
        self.expand = Dense(config.code_dim, width, rngs=rngs)
        self.transformer = CodecTransformer(config.decoder, grid=config.grid, unroll=unroll, rngs=rngs)
        # Every pixel sums over `width` inputs alone: no overlap, so the sides do not count as fan-in.
        kernel = fan_in_truncated(rngs.params(), (width, side * side), jnp.float32)
        self.unpatch = nnx.Param(kernel.T.reshape(side, side, width, 1))

    def __call__(self, z: Float[Array, "b n z"]) -> Float[Array, "b n p"]:
        x = self.transformer(self.expand(z))
        kernel = self.unpatch[...][::-1, ::-1, :, 0].astype(x.dtype)
        return jnp.einsum("bnd,ftd->bnft", x, kernel).reshape(*x.shape[:2], -1)


class AudioCodec(nnx.Module):
    """Spectrograms [b, time, frequency, 1] <-> codes [b, n] in token order (time rows, frequency columns).

    Args:
      config: sizes; mind that `config.spectrogram_size` and `config.grid` are frequency first.
      dtype: computation of both transformers; norms, softmax and the search for the nearest code are float32.
      unroll: layers per step of the layer scan; 0 unrolls all.
      rngs: source of the initial parameters.
    """

    def __init__(self, config: AudioCodecConfig, *, dtype: str = "float32", unroll: int = 1, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        self.encoder = AudioEncoder(config, unroll=unroll, rngs=rngs)
        self.codebook = Embedding(config.num_codes, config.code_dim, rngs=rngs)
        self.decoder = AudioDecoder(config, unroll=unroll, rngs=rngs)

    def latents(self, spectrograms: Float[Array, "b t f 1"]) -> Float[Array, "b n z"]:
        """What is quantised, float32; raises `ConfigError` on spectrograms of another size."""
        (frequencies, times), side = self.config.spectrogram_size, self.config.patch_size
        if spectrograms.shape[1:] != (times, frequencies, 1):
            raise ConfigError(
                f"the spectrograms have shape {spectrograms.shape}; audio_codec.spectrogram_size asks for "
                f"[b, {times} (time), {frequencies} (frequency), 1]"
            )
        x = spectrograms.astype(self.dtype).reshape(-1, times // side, side, frequencies // side, side)
        patches = x.transpose(0, 1, 3, 4, 2).reshape(x.shape[0], -1, side * side)
        return self.encoder(patches).astype(jnp.float32)

    def quantise(self, z: Float[Array, "b n z"]) -> Int[Array, "b n"]:
        """The code of each place whose direction is nearest."""
        return nearest(_unit(z), codebook=_unit(self.codebook.embedding[...]))

    def encode(self, spectrograms: Float[Array, "b t f 1"]) -> Int[Array, "b n"]:
        return self.quantise(self.latents(spectrograms))

    def decode(self, codes: Int[Array, "b n"]) -> Float[Array, "b t f 1"]:
        """Float32; a code outside the codebook stands for a zero vector."""
        (rows, columns), side = self.config.grid, self.config.patch_size
        patches = self.decoder(_unit(self.codebook(codes)).astype(self.dtype))
        x = patches.astype(jnp.float32).reshape(-1, columns, rows, side, side).transpose(0, 1, 4, 2, 3)
        return x.reshape(x.shape[0], columns * side, rows * side, 1)
