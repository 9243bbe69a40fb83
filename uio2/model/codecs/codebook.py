"""The nearest row of a codebook, in bounded memory (spec: MODEL.md section 10)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Positions compared with the whole codebook at a time: 64 MiB of float32 distances for 16384 codes.
POSITIONS_AT_ONCE = 1024


def nearest(z: Float[Array, "b n d"], *, codebook: Float[Array, "v d"]) -> Int[Array, "b n"]:
    """argmin over rows e of |z - e|^2; the first of equal ones.

    |z|^2 is the same for every row and is left out: it would only cost digits. Positions are taken in chunks, all
    examples together, so that a batch split over devices stays split.
    """
    codebook = codebook.astype(jnp.float32)
    half_norm = 0.5 * jnp.sum(jnp.square(codebook), axis=-1)

    def codes(part: Float[Array, "b c d"]) -> Int[Array, "b c"]:
        # A matrix product in less than float32 flips codes on accelerators; with d <= 32 exactness costs nothing.
        product = jnp.einsum("bcd,vd->bcv", part, codebook, precision=jax.lax.Precision.HIGHEST)
        return jnp.argmin(half_norm - product, axis=-1).astype(jnp.int32)

    batch, positions, features = z.shape
    size = _chunk(positions, at_most=max(1, POSITIONS_AT_ONCE // batch))
    parts = z.astype(jnp.float32).reshape(batch, -1, size, features).swapaxes(0, 1)
    return jax.lax.map(codes, parts).swapaxes(0, 1).reshape(batch, positions)


def _chunk(total: int, *, at_most: int) -> int:
    """The largest divisor of `total` within the bound."""
    return next(size for size in range(min(total, at_most), 0, -1) if total % size == 0)
