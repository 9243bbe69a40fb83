"""The image vision transformer (spec: MODEL.md section 5; CLIP-style, Radford et al. 2021).

Patches in, two layers of features out: the original feeds the encoder the last block and the second
block side by side, because the early one keeps where things are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from uio2.model.attention import Attention
from uio2.model.layers import Dense, LayerNorm
from uio2.model.parts import VitConfig
from uio2.model.stack import Stack

EPSILON = 1e-5
EARLY_BLOCK = 1


class VitBlock(nnx.Module):
    """x + attention(norm(x)); x + mlp(norm(x)) with biases and the exact (erf) GELU."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.ln_1 = LayerNorm(config.emb_dim, epsilon=EPSILON)
        self.attention = Attention(
            config.emb_dim, heads=config.num_heads, head_dim=config.head_dim, qk_norm=False, bias=True, rngs=rngs
        )
        self.ln_2 = LayerNorm(config.emb_dim, epsilon=EPSILON)
        self.fc = Dense(config.emb_dim, config.mlp_dim, bias=True, rngs=rngs)
        self.proj = Dense(config.mlp_dim, config.emb_dim, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n n"]) -> Float[Array, "b n d"]:
        y = self.ln_1(x)
        x = x + self.attention(y, y, mask=mask)
        return x + self.proj(jax.nn.gelu(self.fc(self.ln_2(x)), approximate=False))


class VisionTransformer(nnx.Module):
    """Patches [b, n, p] -> features [b, n, 2 * emb_dim] (last block, second block)."""

    def __init__(self, config: VitConfig, *, patch_dim: int, grid: tuple[int, int], unroll: int, rngs: nnx.Rngs):
        self.patch = Dense(patch_dim, config.emb_dim, rngs=rngs)
        scale = config.emb_dim**-0.5
        self.class_embedding = nnx.Param(scale * jax.random.normal(rngs.params(), (config.emb_dim,)))
        self.positions = nnx.Param(scale * jax.random.normal(rngs.params(), (config.num_positions, config.emb_dim)))
        self.pre_ln = LayerNorm(config.emb_dim, epsilon=EPSILON)
        self.blocks = Stack(lambda r: VitBlock(config, rngs=r), length=config.num_layers, unroll=unroll, rngs=rngs)
        self.config = config
        self.grid = grid

    def position_table(self) -> Float[Array, "n d"]:
        """The learned grid, resized to this input's grid (bicubic, a = -0.5) when they differ."""
        side = self.config.grid_side
        table = self.positions[1:].reshape(side, side, -1)
        if (side, side) != self.grid:
            table = jax.image.resize(table, (*self.grid, table.shape[-1]), "bicubic", antialias=False)
        return table.reshape(-1, table.shape[-1])

    def __call__(
        self, patches: Float[Array, "b n p"], *, mask: Int[Array, "b n"], pos_ids: Int[Array, "b n"]
    ) -> Float[Array, "b n 2*d"]:
        x = self.patch(patches) + jnp.take(self.position_table(), pos_ids, axis=0)
        first = jnp.broadcast_to(self.class_embedding[...] + self.positions[0], (x.shape[0], 1, x.shape[-1]))
        x = self.pre_ln(jnp.concatenate([first, x], axis=1))
        valid = jnp.pad(mask > 0, ((0, 0), (1, 0)), constant_values=True)
        pair = valid[:, :, None] & valid[:, None, :]
        last, every = self.blocks.scan(lambda block, h: block(h, pair), x, collect=True)
        return jnp.concatenate([last, every[EARLY_BLOCK]], axis=-1)[:, 1:]
