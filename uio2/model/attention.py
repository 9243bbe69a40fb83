"""Multi-head attention with optional query-key norm and rotary positions (spec: MODEL.md section 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from uio2.model.layers import Dense, RMSNorm, fan_in_normal
from uio2.model.rotary import rotate

MASKED = -1e10


def attend(
    q: Float[Array, "b t h k"],
    k: Float[Array, "b s h k"],
    v: Float[Array, "b s h k"],
    *,
    mask: Bool[Array, "b t s"],
    divisor: Float[Array, "h 1"] | float | None = None,
) -> Float[Array, "b t h k"]:
    """softmax(q k / divisor) v in float32 logits; the divisor is sqrt(head_dim) unless given.

    A row whose every key is masked attends uniformly: -1e10 swallows the differences in float32.
    """
    divisor = jnp.sqrt(jnp.float32(q.shape[-1])) if divisor is None else divisor
    logits = jnp.einsum("bthk,bshk->bhts", q.astype(jnp.float32) / divisor, k.astype(jnp.float32))
    logits = logits + jnp.where(mask, 0.0, MASKED)[:, None]
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights, v)


class Attention(nnx.Module):
    """Projections around `attend`; `source` is the input itself or the encoder's output.

    Args:
      features: width in and out.
      heads, head_dim: the inner width is their product.
      qk_norm: RMS norm of queries and keys over head_dim.
      bias: in all four projections.
      rngs: source of the initial parameters.
    """

    def __init__(self, features: int, *, heads: int, head_dim: int, qk_norm: bool, bias: bool = False, rngs: nnx.Rngs):
        width = heads * head_dim
        self.query = Dense(features, width, bias=bias, init=fan_in_normal, rngs=rngs)
        self.key = Dense(features, width, bias=bias, init=fan_in_normal, rngs=rngs)
        self.value = Dense(features, width, bias=bias, init=fan_in_normal, rngs=rngs)
        self.out = Dense(width, features, bias=bias, init=fan_in_normal, rngs=rngs)
        self.query_norm = RMSNorm(head_dim) if qk_norm else None
        self.key_norm = RMSNorm(head_dim) if qk_norm else None
        self.heads = heads

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def queries(self, x: Float[Array, "b t d"], rotary: Array | None) -> Float[Array, "b t h k"]:
        q = self._heads(self.query(x))
        q = q if self.query_norm is None else self.query_norm(q)
        return q if rotary is None else rotate(q, rotary)

    def keys_values(
        self, source: Float[Array, "b s d"], rotary: Array | None
    ) -> tuple[Float[Array, "b s h k"], Float[Array, "b s h k"]]:
        k = self._heads(self.key(source))
        k = k if self.key_norm is None else self.key_norm(k)
        return (k if rotary is None else rotate(k, rotary)), self._heads(self.value(source))

    def project(self, x: Float[Array, "b t h k"]) -> Float[Array, "b t d"]:
        return self.out(x.reshape(*x.shape[:-2], -1))

    def __call__(
        self,
        x: Float[Array, "b t d"],
        source: Float[Array, "b s d"],
        *,
        mask: Bool[Array, "b t s"],
        rotary: Array | None = None,
        source_rotary: Array | None = None,
    ) -> Float[Array, "b t d"]:
        k, v = self.keys_values(source, source_rotary)
        return self.project(attend(self.queries(x, rotary), k, v, mask=mask))


COSINE_EPSILON = 1e-12
MAX_LOGIT_SCALE = 100.0


class CosineAttention(nnx.Module):
    """softmax of a learned multiple of the cosine between query and key (spec section 3; Liu et al. 2022,
    arXiv:2111.09883), for the resamplers of the published xxl."""

    def __init__(self, features: int, *, heads: int, head_dim: int, rngs: nnx.Rngs):
        self.projections = Attention(features, heads=heads, head_dim=head_dim, qk_norm=False, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.full(heads, jnp.log(10.0)))

    def __call__(
        self, x: Float[Array, "b t d"], source: Float[Array, "b s d"], *, mask: Bool[Array, "b t s"]
    ) -> Float[Array, "b t d"]:
        project = self.projections
        k, v = project.keys_values(source, None)
        divisor = jnp.exp(-jnp.minimum(self.logit_scale[...], jnp.log(MAX_LOGIT_SCALE)))[:, None]
        q = _unit(project.queries(x, None))
        return project.project(attend(q, _unit(k), v, mask=mask, divisor=divisor))


def _unit(x: Float[Array, "b t h k"]) -> Float[Array, "b t h k"]:
    x32 = x.astype(jnp.float32)
    length = jnp.sum(jnp.square(x32), axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(length + COSINE_EPSILON)).astype(x.dtype)
