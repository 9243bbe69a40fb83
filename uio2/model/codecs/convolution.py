"""Layers of the image codec, channels last, float32 (spec: MODEL.md sections 3 and 10)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from uio2.model.layers import fan_in_truncated

NORM_GROUPS = 32
NORM_EPSILON = 1e-6
LAYOUT = ("NHWC", "HWIO", "NHWC")


class Conv(nnx.Module):
    """Square convolution with bias; kernel [size, size, in, out].

    Padding is SAME: with stride 2 on an even side that is nothing before and one after (section 10).
    """

    def __init__(self, features_in: int, features_out: int, *, size: int, stride: int = 1, rngs: nnx.Rngs):
        shape = (size, size, features_in, features_out)
        self.kernel = nnx.Param(fan_in_truncated(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.stride = stride

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        return convolve(x, kernel=self.kernel[...], stride=self.stride) + self.bias[...]


def convolve(
    x: Float[Array, "b h w i"], *, kernel: Float[Array, "s s i o"], stride: int = 1
) -> Float[Array, "b h2 w2 o"]:
    """SAME convolution; a 1x1 kernel is a matrix product."""
    if kernel.shape[:2] == (1, 1) and stride == 1:
        return x @ kernel[0, 0]
    return jax.lax.conv_general_dilated(
        x, kernel, window_strides=(stride, stride), padding="SAME", dimension_numbers=LAYOUT
    )


class UpsampleConv(Conv):
    """Each pixel doubled along both sides, then a 3x3 convolution.

    Of the three rows that a doubled row sees, two are copies of one: an even row sees (i - 1, i, i) and an odd one
    (i, i, i + 1), columns alike. So each of the four kinds of output pixel is a 2x2 convolution of the small map with
    kernel rows added up: 4 products per output pixel instead of 9.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        super().__init__(features, features, size=3, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
        kernel = self.kernel[...]
        phases = [
            [_phase(x, kernel=_folded(_folded(kernel, axis=0, odd=row), axis=1, odd=column), odd=(row, column))
             for column in (False, True)]
            for row in (False, True)
        ]  # fmt: skip
        y = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)  # b h 2 w 2 c
        return y.reshape(x.shape[0], 2 * x.shape[1], 2 * x.shape[2], -1) + self.bias[...]


def _folded(kernel: Float[Array, "r s i o"], *, axis: int, odd: bool) -> Float[Array, "r2 s2 i o"]:
    """Three taps of a kernel axis as the two that even or odd places see."""
    first, middle, last = jnp.split(kernel, 3, axis=axis)
    return jnp.concatenate([first + middle, last] if odd else [first, middle + last], axis=axis)


def _phase(
    x: Float[Array, "b h w c"], *, kernel: Float[Array, "2 2 c o"], odd: tuple[bool, bool]
) -> Float[Array, "b h w o"]:
    """2x2 convolution padded before even and after odd sides."""
    padding = [(0, 1) if side else (1, 0) for side in odd]
    return jax.lax.conv_general_dilated(x, kernel, window_strides=(1, 1), padding=padding, dimension_numbers=LAYOUT)


class GroupNorm(nnx.Module):
    """Norm over all places and a group of neighbouring channels; variance as max(0, E[x^2] - E[x]^2)."""

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        def over_group(per_channel: Float[Array, "b c"]) -> Float[Array, "b c"]:
            mean = per_channel.reshape(x.shape[0], NORM_GROUPS, -1).mean(axis=-1)
            return jnp.repeat(mean, x.shape[-1] // NORM_GROUPS, axis=-1)

        mean = over_group(x.mean(axis=(1, 2)))
        variance = jnp.maximum(0.0, over_group(jnp.square(x).mean(axis=(1, 2))) - jnp.square(mean))
        factor = jax.lax.rsqrt(variance + NORM_EPSILON) * self.scale[...]
        return (x - mean[:, None, None]) * factor[:, None, None] + self.bias[...]
