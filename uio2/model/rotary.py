"""Rotary positions (spec: MODEL.md section 4; Su et al. 2021, arXiv:2104.09864).

Pairs are interleaved (2i, 2i + 1). A position is carried as `Float[Array, "... k/2 2"]`: cosine and sine
of each pair's angle, float32.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BASE = 10000.0


def _angles(position: Array, *, pairs: int, width: int) -> Array:
    frequency = BASE ** (-2.0 * jnp.arange(pairs, dtype=jnp.float32) / width)
    return position.astype(jnp.float32)[..., None] * frequency


def _table(angle: Array) -> Array:
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def text_rotary(pos_ids: Int[Array, "... t"], *, head_dim: int) -> Float[Array, "... t k/2 2"]:
    """1-D: pair i turns by p * 10000^(-2i / head_dim)."""
    return _table(_angles(pos_ids, pairs=head_dim // 2, width=head_dim))


def grid_rotary(
    pos_ids: Int[Array, "... n"], *, columns: int, head_dim: int, scale: float = 1.0
) -> Float[Array, "... n k/2 2"]:
    """2-D over a row-major grid: the first half of the pairs turns by row, the second by column."""
    half = head_dim // 2
    row, column = pos_ids // columns, pos_ids % columns
    angle = [_angles(axis.astype(jnp.float32) * scale, pairs=half // 2, width=half) for axis in (row, column)]
    return _table(jnp.concatenate(angle, axis=-1))


def rotate(x: Float[Array, "b t h k"], rotary: Float[Array, "b t k/2 2"]) -> Float[Array, "b t h k"]:
    """Turns each pair of features; float32 inside, cast back."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    cos, sin = rotary[:, :, None, :, 0], rotary[:, :, None, :, 1]
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
