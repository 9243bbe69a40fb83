"""Floating-point operations of one training step, counted from the sizes alone.

A multiplication and an addition are two operations. Counted are the matrix products of the model: a token passes
every kernel [i, o] on its way once, 2*i*o; attention scores and their use, 2*t*s*width each, masked places included
because they are computed; the logits. Not counted are norms, softmax, rotary positions, element-wise work, table
look-ups and the optimizer: they are overhead against the matrix rate.

Backward costs twice the forward pass: one product for the gradient of the input, one for that of the kernel. Two
parts cost less: the frozen vision transformer has no backward pass, and the projection of its features has no
gradient of the input. Recomputation (`remat`) is not counted: it is the model's work that is measured, not the
machine's.
"""

from __future__ import annotations

import dataclasses

from uio2.model.config import ModelConfig
from uio2.model.parts import VitConfig


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Rows of a batch and tokens per row: text in, image patches in, text out."""

    rows: int
    text_in: int
    patches: int
    text_out: int

    @property
    def encoder(self) -> int:
        """Tokens of one row of the encoder."""
        return self.text_in + self.patches


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """Operations of one training step on one batch, by part; `vit` is a forward pass alone."""

    vit: int
    projection: int
    encoder: int
    decoder: int
    logits: int

    @property
    def total(self) -> int:
        return self.vit + self.projection + self.encoder + self.decoder + self.logits


def train_step(config: ModelConfig, lengths: Lengths) -> StepFlops:
    """Forward and backward of text and image in, text out, the vision transformer frozen."""
    rows, vit = lengths.rows, config.image_vit
    projection = 2 * rows * lengths.patches * 2 * vit.emb_dim * config.emb_dim
    return StepFlops(
        vit=rows * _vit_forward(vit, patches=lengths.patches, patch_dim=config.patch_dim),
        projection=2 * projection,
        encoder=3 * rows * _encoder_forward(config, tokens=lengths.encoder),
        decoder=3 * rows * _decoder_forward(config, tokens=lengths.text_out, source=lengths.encoder),
        logits=3 * 2 * rows * lengths.text_out * config.emb_dim * config.text_vocab_size,
    )


def _attend(tokens: int, source: int, *, width: int) -> int:
    return 2 * 2 * tokens * source * width


def _vit_forward(config: VitConfig, *, patches: int, patch_dim: int) -> int:
    if not patches:
        return 0
    tokens, width = patches + 1, config.num_heads * config.head_dim
    kernels = 4 * config.emb_dim * width + 2 * config.emb_dim * config.mlp_dim
    layer = 2 * tokens * kernels + _attend(tokens, tokens, width=width)
    return 2 * patches * patch_dim * config.emb_dim + config.num_layers * layer


def _encoder_forward(config: ModelConfig, *, tokens: int) -> int:
    width = config.num_heads * config.head_dim
    kernels = 4 * config.emb_dim * width + 3 * config.emb_dim * config.mlp_dim
    return config.num_encoder_layers * (2 * tokens * kernels + _attend(tokens, tokens, width=width))


def _decoder_forward(config: ModelConfig, *, tokens: int, source: int) -> int:
    width = config.num_heads * config.head_dim
    of_target = (4 + 2) * config.emb_dim * width + 3 * config.emb_dim * config.mlp_dim
    of_source = 2 * config.emb_dim * width
    attend = _attend(tokens, tokens, width=width) + _attend(tokens, source, width=width)
    return config.num_decoder_layers * (2 * tokens * of_target + 2 * source * of_source + attend)
