"""The encoder and decoder stacks (spec: MODEL.md sections 1, 3, 7): pre-norm, RMS norm, gated MLP."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from uio2.model.attention import Attention
from uio2.model.config import ModelConfig
from uio2.model.layers import GatedMLP, RMSNorm
from uio2.model.rows import Segment
from uio2.model.stack import Stack


def _attention(config: ModelConfig, rngs: nnx.Rngs) -> Attention:
    return Attention(
        config.emb_dim, heads=config.num_heads, head_dim=config.head_dim, qk_norm=config.qk_norm, rngs=rngs
    )


class EncoderBlock(nnx.Module):
    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.emb_dim)
        self.attention = _attention(config, rngs)
        self.mlp_norm = RMSNorm(config.emb_dim)
        self.mlp = GatedMLP(config.emb_dim, config.mlp_dim, rngs=rngs)

    def __call__(self, x: Array, *, mask: Array, rotary: Array | None) -> Array:
        y = self.attention_norm(x)
        x = x + self.attention(y, y, mask=mask, rotary=rotary, source_rotary=rotary)
        return x + self.mlp(self.mlp_norm(x))


class DecoderBlock(nnx.Module):
    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.self_norm = RMSNorm(config.emb_dim)
        self.self_attention = _attention(config, rngs)
        self.cross_norm = RMSNorm(config.emb_dim)
        self.cross_attention = _attention(config, rngs)
        self.mlp_norm = RMSNorm(config.emb_dim)
        self.mlp = GatedMLP(config.emb_dim, config.mlp_dim, rngs=rngs)

    def __call__(
        self, x: Array, encoded: Array, *, self_mask: Array, cross_mask: Array,
        rotary: Array | None, encoded_rotary: Array | None,
    ) -> Array:  # fmt: skip
        y = self.self_norm(x)
        x = x + self.self_attention(y, y, mask=self_mask, rotary=rotary, source_rotary=rotary)
        x = x + self.cross_attention(
            self.cross_norm(x), encoded, mask=cross_mask, rotary=rotary, source_rotary=encoded_rotary
        )
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nnx.Module):
    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.blocks = Stack(
            lambda r: EncoderBlock(config, rngs=r),
            length=config.num_encoder_layers, unroll=config.scan_unroll, remat=config.remat, rngs=rngs,
        )  # fmt: skip
        self.norm = RMSNorm(config.emb_dim)

    def __call__(self, row: Segment) -> Float[Array, "b t d"]:
        mask = row.self_mask()
        x, _ = self.blocks.scan(lambda block, h: block(h, mask=mask, rotary=row.rotary), row.embed)
        return self.norm(x)


class Decoder(nnx.Module):
    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.blocks = Stack(
            lambda r: DecoderBlock(config, rngs=r),
            length=config.num_decoder_layers, unroll=config.scan_unroll, remat=config.remat, rngs=rngs,
        )  # fmt: skip
        self.norm = RMSNorm(config.emb_dim)

    def __call__(self, row: Segment, *, encoded: Array, source: Segment) -> Float[Array, "b t d"]:
        """`source` is the encoder's input row: its mask and positions."""
        seen = row.self_mask()
        self_mask = seen & jnp.tril(jnp.ones(seen.shape[1:], bool))
        cross_mask = row.cross_mask(source)
        x, _ = self.blocks.scan(
            lambda block, h: block(
                h,
                encoded,
                self_mask=self_mask,
                cross_mask=cross_mask,
                rotary=row.rotary,
                encoded_rotary=source.rotary,
            ),
            row.embed,
        )
        return self.norm(x)
