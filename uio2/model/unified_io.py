"""The model: modality encoders -> one encoder row -> encoder -> decoder -> logits per target modality."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from uio2.model.config import ModelConfig
from uio2.model.layers import Dense, Embedding
from uio2.model.parts import ConfigError
from uio2.model.rotary import grid_rotary, text_rotary
from uio2.model.transformer import Decoder, Encoder, Segment, assemble
from uio2.model.vit import VisionTransformer

Batch = Mapping[str, Array]
MODALITY_STD = 0.02


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModalityOutput:
    """One target modality: logits [b, t, v] float32, targets [b, t] int32, loss_mask [b, t] float32."""

    logits: Float[Array, "b t v"]
    targets: Int[Array, "b t"]
    loss_mask: Float[Array, "b t"]


def _modality_vector(config: ModelConfig, rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(MODALITY_STD * jax.random.normal(rngs.params(), (config.emb_dim,)))


class ImageInput(nnx.Module):
    """Vision transformer features, projected to the model width."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.vit = VisionTransformer(
            config.image_vit, patch_dim=config.patch_dim, grid=config.image_grid, unroll=config.scan_unroll, rngs=rngs
        )
        self.projection = Dense(2 * config.image_vit.emb_dim, config.emb_dim, rngs=rngs)
        self.modality = _modality_vector(config, rngs)
        self.config = config

    def __call__(self, batch: Batch) -> Segment:
        config = self.config
        mask, pos_ids = batch["inputs/image/mask"], batch["inputs/image/pos_ids"]
        vit = self.vit
        if config.freeze_vit:
            # On the parameters rather than the features: nothing of the tower is then traced for gradients.
            graph, params = nnx.split(vit)
            vit = nnx.merge(graph, jax.lax.stop_gradient(params))
        features = vit(batch["inputs/image/input"], mask=mask, pos_ids=pos_ids)
        dtype = jnp.dtype(config.dtype)
        embed = self.projection(features.astype(dtype)) + self.modality[...].astype(dtype)
        rotary = None
        if config.use_rotary:
            rotary = grid_rotary(
                pos_ids, columns=config.image_grid[1], head_dim=config.head_dim, scale=config.image_rope_scale
            )
        return Segment(embed, mask > 0, rotary)


class UnifiedIO2(nnx.Module):
    """Unified-IO 2 (Lu et al. 2023, arXiv:2312.17172); see the package docstring for the batch.

    Args:
      config: sizes; `input_modalities` and `target_modalities` choose what exists.
      rngs: source of the initial parameters.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.text_embedder = Embedding(config.text_vocab_size, config.emb_dim, rngs=rngs)
        self.text_input_modality = _modality_vector(config, rngs)
        self.text_target_modality = _modality_vector(config, rngs)
        self.image_input = ImageInput(config, rngs=rngs) if "image" in config.input_modalities else None
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def _text(
        self, tokens: Array, mask: Array, pos_ids: Array, modality: nnx.Param, segment_ids: Array | None = None
    ) -> Segment:
        dtype = jnp.dtype(self.config.dtype)
        embed = self.text_embedder(tokens).astype(dtype) + modality[...].astype(dtype)
        rotary = text_rotary(pos_ids, head_dim=self.config.head_dim) if self.config.use_rotary else None
        return Segment(embed, mask > 0, rotary, segment_ids)

    def source(self, batch: Batch) -> Segment:
        """The encoder's input row: text, then image."""
        segments = []
        if "text" in self.config.input_modalities:
            tokens, mask, pos = (batch[f"inputs/text/{k}"] for k in ("tokens", "mask", "pos_ids"))
            if tokens.shape[1] > self.config.encoder_max_text_length:
                raise ConfigError(
                    f"inputs/text/tokens has length {tokens.shape[1]}; the model takes at most "
                    f"{self.config.encoder_max_text_length} (encoder_max_text_length)"
                )
            segments.append(self._text(tokens, mask, pos, self.text_input_modality))
        if self.image_input is not None:
            segments.append(self.image_input(batch))
        return assemble(segments)

    def target_segment(self, inputs: Array, *, mask: Array, pos_ids: Array, segment_ids: Array | None) -> Segment:
        """The decoder's input row for text; `inputs` are the targets shifted right."""
        return self._text(inputs, mask, pos_ids, self.text_target_modality, segment_ids)

    def __call__(self, batch: Batch) -> dict[str, ModalityOutput]:
        """Teacher-forced logits for every target modality."""
        source = self.source(batch)
        encoded = self.encoder(source)
        targets = batch["targets/text/targets"]
        # A target that is only EOS (id 1) says nothing: masked whole (spec section 6).
        mask = batch["targets/text/mask"] * (targets.sum(axis=-1, keepdims=True) > 1)
        row = self.target_segment(
            batch["targets/text/inputs"], mask=mask, pos_ids=batch["targets/text/pos_ids"],
            segment_ids=batch["targets/text/segment_ids"],
        )  # fmt: skip
        hidden = self.decoder(row, encoded=encoded, source=source)
        logits = self.text_embedder.logits(hidden)
        return {"text": ModalityOutput(logits, targets, mask.astype(jnp.float32))}
