"""The vision transformers before the encoder (spec: MODEL.md section 5).

One for pictures (CLIP-style, Radford et al. 2021, arXiv:2103.00020) and one for spectrograms (AST-style, Gong et al.
2021, arXiv:2104.01778); each also serves the history of its modality, whose grid may be another. Patches in, two
layers of features out: the encoder gets the last block and the second block side by side, because the early one
keeps where things are.
"""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from uio2.model.attention import Attention
from uio2.model.config import ModelConfig
from uio2.model.layers import Dense, LayerNorm
from uio2.model.parts import VitConfig
from uio2.model.stack import Stack

IMAGE_EPSILON = 1e-5
AUDIO_EPSILON = 1e-6
EARLY_BLOCK = 1


class VitBlock(nnx.Module):
    """x + attention(norm(x)); x + mlp(norm(x)) with biases; `tanh_gelu` chooses the approximation of GELU."""

    def __init__(self, config: VitConfig, *, epsilon: float, tanh_gelu: bool, rngs: nnx.Rngs):
        self.ln_1 = LayerNorm(config.emb_dim, epsilon=epsilon)
        self.attention = Attention(
            config.emb_dim, heads=config.num_heads, head_dim=config.head_dim, qk_norm=False, bias=True, rngs=rngs
        )
        self.ln_2 = LayerNorm(config.emb_dim, epsilon=epsilon)
        self.fc = Dense(config.emb_dim, config.mlp_dim, bias=True, rngs=rngs)
        self.proj = Dense(config.mlp_dim, config.emb_dim, bias=True, rngs=rngs)
        self.tanh_gelu = tanh_gelu

    def __call__(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n n"]) -> Float[Array, "b n d"]:
        y = self.ln_1(x)
        x = x + self.attention(y, y, mask=mask)
        return x + self.proj(jax.nn.gelu(self.fc(self.ln_2(x)), approximate=self.tanh_gelu))


class _Tower(nnx.Module):
    """What both transformers share: blocks over some leading tokens and one token per patch; no final norm."""

    blocks: Stack[VitBlock]

    @abc.abstractmethod
    def _embed(self, patches: Array, pos_ids: Array, grid: tuple[int, int]) -> tuple[Array, int]:
        """Tokens [b, leading + n, d] and how many lead."""

    def _run(self, patches: Array, mask: Array, pos_ids: Array, grid: tuple[int, int], *, collect: bool) -> list[Array]:
        """Features of the last block and, with `collect`, of the early one."""
        x, leading = self._embed(patches, pos_ids, grid)
        valid = jnp.pad(mask > 0, ((0, 0), (leading, 0)), constant_values=True)
        pair = valid[:, :, None] & valid[:, None, :]
        last, every = self.blocks.scan(lambda block, h: block(h, pair), x, collect=collect)
        return [features[:, leading:] for features in ((last, every[EARLY_BLOCK]) if collect else (last,))]

    def __call__(
        self,
        patches: Float[Array, "b n p"],
        *,
        mask: Int[Array, "b n"],
        pos_ids: Int[Array, "b n"],
        grid: tuple[int, int],
    ) -> Float[Array, "b n 2*d"]:
        """Features of the last and of the second block; `pos_ids` are row-major in `grid` (rows, columns)."""
        return jnp.concatenate(self._run(patches, mask, pos_ids, grid, collect=True), axis=-1)

    def last(
        self,
        patches: Float[Array, "b n p"],
        *,
        mask: Int[Array, "b n"],
        pos_ids: Int[Array, "b n"],
        grid: tuple[int, int],
    ) -> Float[Array, "b n d"]:
        """Features of the last block alone, as the histories use them."""
        return self._run(patches, mask, pos_ids, grid, collect=False)[0]


class VisionTransformer(_Tower):
    """Pictures: one class token, a norm before the blocks, exact (erf) GELU; positions resized to the grid."""

    def __init__(self, config: VitConfig, *, patch_dim: int, unroll: int, remat: str = "none", rngs: nnx.Rngs):
        self.patch = Dense(patch_dim, config.emb_dim, rngs=rngs)
        self.class_embedding = _token(config, rngs)
        self.positions = _positions(config, rngs)
        self.pre_ln = LayerNorm(config.emb_dim, epsilon=IMAGE_EPSILON)
        self.blocks = Stack(
            lambda r: VitBlock(config, epsilon=IMAGE_EPSILON, tanh_gelu=False, rngs=r),
            length=config.num_layers, unroll=unroll, remat=remat, rngs=rngs,
        )  # fmt: skip
        self.side = config.grid_side

    @classmethod
    def of(cls, config: ModelConfig, *, rngs: nnx.Rngs) -> VisionTransformer:
        """The transformer a model config asks for."""
        return cls(
            config.image_vit, patch_dim=config.patch_dim, unroll=config.scan_unroll, remat=config.remat, rngs=rngs
        )

    def position_table(self, grid: tuple[int, int]) -> Float[Array, "n d"]:
        """The learned square, resized to this grid (bicubic, a = -0.5) when they differ."""
        table = self.positions[1:].reshape(self.side, self.side, -1)
        if (self.side, self.side) != grid:
            table = jax.image.resize(table, (*grid, table.shape[-1]), "bicubic", antialias=False)
        return table.reshape(-1, table.shape[-1])

    def _embed(self, patches: Array, pos_ids: Array, grid: tuple[int, int]) -> tuple[Array, int]:
        x = self.patch(patches) + jnp.take(self.position_table(grid), pos_ids, axis=0)
        first = jnp.broadcast_to(self.class_embedding[...] + self.positions[0], (x.shape[0], 1, x.shape[-1]))
        return self.pre_ln(jnp.concatenate([first, x], axis=1)), 1


class SpectrogramTransformer(_Tower):
    """Spectrograms: class and distillation token, tanh GELU; the position table counts frequency first."""

    def __init__(self, config: VitConfig, *, patch_dim: int, unroll: int, remat: str = "none", rngs: nnx.Rngs):
        self.patch = Dense(patch_dim, config.emb_dim, bias=True, rngs=rngs)
        self.class_embedding = _token(config, rngs)
        self.distillation_embedding = _token(config, rngs)
        self.positions = _positions(config, rngs)
        self.blocks = Stack(
            lambda r: VitBlock(config, epsilon=AUDIO_EPSILON, tanh_gelu=True, rngs=r),
            length=config.num_layers, unroll=unroll, remat=remat, rngs=rngs,
        )  # fmt: skip

    @classmethod
    def of(cls, config: ModelConfig, *, rngs: nnx.Rngs) -> SpectrogramTransformer:
        """The transformer a model config asks for."""
        return cls(
            config.audio_vit, patch_dim=config.audio_patch_dim, unroll=config.scan_unroll, remat=config.remat,
            rngs=rngs,
        )  # fmt: skip

    def _embed(self, patches: Array, pos_ids: Array, grid: tuple[int, int]) -> tuple[Array, int]:
        rows, columns = grid
        transposed = pos_ids % columns * rows + pos_ids // columns
        x = self.patch(patches) + jnp.take(self.positions[2:], transposed, axis=0)
        first = jnp.stack([self.class_embedding[...], self.distillation_embedding[...]]) + self.positions[:2]
        return jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], *first.shape)), x], axis=1), 2


def _token(config: VitConfig, rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(config.emb_dim**-0.5 * jax.random.normal(rngs.params(), (config.emb_dim,)))


def _positions(config: VitConfig, rngs: nnx.Rngs) -> nnx.Param:
    shape = (config.num_positions, config.emb_dim)
    return nnx.Param(config.emb_dim**-0.5 * jax.random.normal(rngs.params(), shape))
