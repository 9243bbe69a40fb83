"""Layers of the image codec, channels last, float32 (spec: MODEL.md sections 3 and 10)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from uio2.model.layers import fan_in_truncated

NORM_GROUPS = 32
NORM_EPSILON = 1e-6


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
        x, kernel, window_strides=(stride, stride), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class UpsampleConv(Conv):
    """Each pixel doubled along both sides, then a 3x3 convolution."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        super().__init__(features, features, size=3, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
        return super().__call__(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


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
