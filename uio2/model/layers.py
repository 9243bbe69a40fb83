"""Primitive layers (spec: MODEL.md section 3). Kernels are 2-D [in, out], even for attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

RMS_EPSILON = 1e-6

fan_in_normal = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
fan_in_truncated = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def _matmul(x: Float[Array, "... i"], kernel: Float[Array, "i o"]) -> Float[Array, "... o"]:
    """x @ kernel over flattened leading axes.

    The gradient of a kernel contracts all of them; while they are two, XLA on CPU writes the output's gradient once
    more, transposed, for that product.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


class Dense(nnx.Module):
    """x @ kernel (+ bias); the kernel is float32, cast to the input's dtype."""

    def __init__(
        self, features_in: int, features_out: int, *, bias: bool = False, init=fan_in_truncated, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(init(rngs.params(), (features_in, features_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features_out)) if bias else None

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        y = _matmul(x, self.kernel[...].astype(x.dtype))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """x * rsqrt(mean(x^2) + 1e-6) in float32, cast back, times a scale."""

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones(features))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + RMS_EPSILON)
        return y.astype(x.dtype) * self.scale[...].astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm with bias; variance as max(0, E[x^2] - E[x]^2) in float32, like the original."""

    def __init__(self, features: int, *, epsilon: float, scale: bool = True):
        self.scale = nnx.Param(jnp.ones(features)) if scale else None
        self.bias = nnx.Param(jnp.zeros(features))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        x32 = x.astype(jnp.float32)
        mean = jnp.mean(x32, -1, keepdims=True)
        variance = jnp.maximum(0.0, jnp.mean(jnp.square(x32), -1, keepdims=True) - jnp.square(mean))
        factor = jax.lax.rsqrt(variance + self.epsilon)
        factor = factor if self.scale is None else factor * self.scale[...]
        return ((x32 - mean) * factor + self.bias[...]).astype(x.dtype)


class Embedding(nnx.Module):
    """Token table, also the output projection. An id outside [0, v) gives a zero vector."""

    def __init__(self, rows: int, features: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (rows, features)))

    def __call__(self, ids: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        # `fill` drops ids beyond the table; negative ids would wrap, so send them beyond it.
        table = self.embedding[...]
        return jnp.take(table, jnp.where(ids < 0, table.shape[0], ids), axis=0, mode="fill", fill_value=0.0)

    def logits(self, x: Float[Array, "... d"]) -> Float[Array, "... v"]:
        """Float32 scores against every row, divided by sqrt(d)."""
        table = self.embedding[...]
        rows = x.astype(jnp.float32).reshape(-1, x.shape[-1]) / jnp.sqrt(jnp.float32(table.shape[1]))
        # Not `rows @ table.T`: for one row XLA on CPU transposes the whole table first (33280 x 768: 14 to 4 ms).
        return jnp.einsum("rd,vd->rv", rows, table).reshape(*x.shape[:-1], -1)


class GatedMLP(nnx.Module):
    """(silu(x wi_0) * (x wi_1)) wo."""

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs):
        self.wi_0 = Dense(features, hidden, rngs=rngs)
        self.wi_1 = Dense(features, hidden, rngs=rngs)
        self.wo = Dense(hidden, features, rngs=rngs)

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return self.wo(jax.nn.silu(self.wi_0(x)) * self.wi_1(x))


class MLP(nnx.Module):
    """gelu(x wi) wo; `tanh_gelu` chooses the approximation of GELU."""

    def __init__(self, features: int, hidden: int, *, tanh_gelu: bool, rngs: nnx.Rngs):
        self.wi = Dense(features, hidden, rngs=rngs)
        self.wo = Dense(hidden, features, rngs=rngs)
        self.tanh_gelu = tanh_gelu

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return self.wo(jax.nn.gelu(self.wi(x), approximate=self.tanh_gelu))
