"""The image VQGAN: pixels <-> a grid of codes (Esser et al. 2021, arXiv:2012.09841; spec: MODEL.md section 10).

Always float32, whatever the model computes in (section 2). Levels are unequal, so they are plain lists, not a `Stack`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from uio2.model.codecs.codebook import nearest
from uio2.model.codecs.convolution import Conv, GroupNorm, UpsampleConv
from uio2.model.layers import Embedding
from uio2.model.parts import CodecLevel, ConfigError, ImageCodecConfig

PIXEL_CHANNELS = 3


class ResBlock(nnx.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))); a 1x1 convolution carries x over where the width changes."""

    def __init__(self, features_in: int, features_out: int, *, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(features_in)
        self.conv1 = Conv(features_in, features_out, size=3, rngs=rngs)
        self.norm2 = GroupNorm(features_out)
        self.conv2 = Conv(features_out, features_out, size=3, rngs=rngs)
        self.shortcut = None if features_in == features_out else Conv(features_in, features_out, size=1, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class SpatialAttention(nnx.Module):
    """One head over all places of the map: x + out(softmax(q k / sqrt(c)) v)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(features)
        self.query = Conv(features, features, size=1, rngs=rngs)
        self.key = Conv(features, features, size=1, rngs=rngs)
        self.value = Conv(features, features, size=1, rngs=rngs)
        self.out = Conv(features, features, size=1, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = self.norm(x)
        q, k, v = (part(y).reshape(y.shape[0], -1, y.shape[-1]) for part in (self.query, self.key, self.value))
        weights = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k) * q.shape[-1] ** -0.5, axis=-1)
        return x + self.out(jnp.einsum("bqk,bkc->bqc", weights, v).reshape(x.shape))


class Level(nnx.Module):
    """Residual blocks at one resolution, each followed by attention where the config asks for it."""

    def __init__(self, level: CodecLevel, *, blocks: int, rngs: nnx.Rngs):
        width = level.features_out
        widths_in = [level.features_in] + [width] * (blocks - 1)
        self.blocks = nnx.List([ResBlock(before, width, rngs=rngs) for before in widths_in])
        self.attentions = nnx.List([SpatialAttention(width, rngs=rngs) for _ in widths_in if level.attention])

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        for i, block in enumerate(self.blocks):
            x = block(x)
            x = self.attentions[i](x) if self.attentions else x
        return x


class Middle(nnx.Module):
    """The bottleneck at the lowest resolution: block, attention, block."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.block1 = ResBlock(features, features, rngs=rngs)
        self.attention = SpatialAttention(features, rngs=rngs)
        self.block2 = ResBlock(features, features, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.block2(self.attention(self.block1(x)))


class ImageEncoder(nnx.Module):
    """Pixels -> z_channels per place, levels counted from the pixels down."""

    def __init__(self, config: ImageCodecConfig, *, rngs: nnx.Rngs):
        levels = config.levels_down
        width = levels[-1].features_out
        self.conv_in = Conv(PIXEL_CHANNELS, config.channels, size=3, rngs=rngs)
        self.levels = nnx.List([Level(level, blocks=config.num_res_blocks, rngs=rngs) for level in levels])
        self.downsamples = nnx.List(
            [Conv(level.features_out, level.features_out, size=3, stride=2, rngs=rngs) for level in levels[:-1]]
        )
        self.middle = Middle(width, rngs=rngs)
        self.norm_out = GroupNorm(width)
        self.conv_out = Conv(width, config.z_channels, size=3, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw z"]:
        x = self.conv_in(x)
        for i, level in enumerate(self.levels):
            x = level(x if i == 0 else self.downsamples[i - 1](x))
        return self.conv_out(jax.nn.silu(self.norm_out(self.middle(x))))


class ImageDecoder(nnx.Module):
    """z_channels per place -> pixels, levels counted from the lowest resolution up (section 10)."""

    def __init__(self, config: ImageCodecConfig, *, rngs: nnx.Rngs):
        levels = config.levels_up
        width = levels[0].features_in
        self.conv_in = Conv(config.z_channels, width, size=3, rngs=rngs)
        self.middle = Middle(width, rngs=rngs)
        self.levels = nnx.List([Level(level, blocks=config.num_res_blocks + 1, rngs=rngs) for level in levels])
        self.upsamples = nnx.List([UpsampleConv(level.features_out, rngs=rngs) for level in levels[:-1]])
        width = levels[-1].features_out
        self.norm_out = GroupNorm(width)
        self.conv_out = Conv(width, PIXEL_CHANNELS, size=3, rngs=rngs)

    def __call__(self, z: Float[Array, "b gh gw z"]) -> Float[Array, "b h w 3"]:
        x = self.middle(self.conv_in(z))
        for i, level in enumerate(self.levels):
            x = level(x if i == 0 else self.upsamples[i - 1](x))
        return self.conv_out(jax.nn.silu(self.norm_out(x)))


class ImageCodec(nnx.Module):
    """Images in [-1, 1] <-> codes in 0..num_codes-1, the grid in row-major order.

    Args:
      config: sizes; images have exactly `config.image_size`.
      rngs: source of the initial parameters.
    """

    def __init__(self, config: ImageCodecConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = ImageEncoder(config, rngs=rngs)
        self.quant_conv = Conv(config.z_channels, config.z_channels, size=1, rngs=rngs)
        self.codebook = Embedding(config.num_codes, config.z_channels, rngs=rngs)
        self.post_quant_conv = Conv(config.z_channels, config.z_channels, size=1, rngs=rngs)
        self.decoder = ImageDecoder(config, rngs=rngs)

    def latents(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n z"]:
        """What is quantised; raises `ConfigError` on images of another size."""
        if images.shape[1:] != (*self.config.image_size, PIXEL_CHANNELS):
            raise ConfigError(
                f"the images have shape {images.shape}; image_codec.image_size asks for "
                f"[b, {', '.join(map(str, self.config.image_size))}, {PIXEL_CHANNELS}]"
            )
        z = self.quant_conv(self.encoder(images.astype(jnp.float32)))
        return z.reshape(z.shape[0], -1, z.shape[-1])

    def quantise(self, z: Float[Array, "b n z"]) -> Int[Array, "b n"]:
        """The nearest code of each place."""
        return nearest(z, codebook=self.codebook.embedding[...])

    def encode(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b n"]:
        return self.quantise(self.latents(images))

    def decode(self, codes: Int[Array, "b n"]) -> Float[Array, "b h w 3"]:
        """Float32, not clipped; a code outside the codebook stands for a zero vector."""
        z = self.codebook(codes).reshape(codes.shape[0], *self.config.grid, -1)
        return self.decoder(self.post_quant_conv(z))
