"""Pictures and spectrograms, one per example or several frames of history (spec: MODEL.md section 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from uio2.model.config import ModelConfig
from uio2.model.encoders.items import Patches, encode_real, frozen
from uio2.model.layers import Dense
from uio2.model.parts import ConfigError, ResamplerConfig, VitConfig
from uio2.model.resampler import Resampler
from uio2.model.rotary import grid_rotary
from uio2.model.rows import Segment
from uio2.model.vit import SpectrogramTransformer, VisionTransformer

Tower = VisionTransformer | SpectrogramTransformer
MODALITY_STD = 0.02


@dataclasses.dataclass(frozen=True)
class Visual:
    """What of a `ModelConfig` belongs to `image` or to `audio`."""

    vit: VitConfig
    resampler: ResamplerConfig
    grid: tuple[int, int]
    history_grid: tuple[int, int]
    rope_scale: float

    @classmethod
    def of(cls, config: ModelConfig, kind: str) -> Visual:
        if kind == "image":
            parts = (config.image_vit, config.image_resampler, config.image_grid, config.image_history_grid)
            return cls(*parts, config.image_rope_scale)
        parts = (config.audio_vit, config.audio_resampler, config.audio_grid, config.audio_history_grid)
        return cls(*parts, config.audio_rope_scale)


def modality_vector(config: ModelConfig, rngs: nnx.Rngs) -> nnx.Param:
    """Added to every token of a modality: nothing else tells modalities apart."""
    return nnx.Param(MODALITY_STD * jax.random.normal(rngs.params(), (config.emb_dim,)))


class VisualInput(nnx.Module):
    """One picture or spectrogram per example: features of two blocks, projected to the model width."""

    def __init__(self, config: ModelConfig, *, kind: str, rngs: nnx.Rngs):
        self.visual = Visual.of(config, kind)
        self.projection = Dense(2 * self.visual.vit.emb_dim, config.emb_dim, rngs=rngs)
        self.modality = modality_vector(config, rngs)
        self.config, self.prefix = config, f"inputs/{kind}"

    def __call__(self, batch: Mapping[str, Array], *, tower: Tower, slots: int | None = None) -> Segment:
        config, visual, dtype = self.config, self.visual, jnp.dtype(self.config.dtype)
        items = Patches.of(batch, self.prefix)
        tower = frozen(tower) if config.freeze_vit else tower

        def encode(p: Patches) -> Array:
            features = tower(p.values, mask=p.mask, pos_ids=p.pos_ids, grid=visual.grid)
            return self.projection(features.astype(dtype)) + self.modality[...].astype(dtype)

        found = encode_real(encode, items, present=items.mask.any(axis=1), slots=slots)
        rotary = None
        if config.use_rotary:
            rotary = grid_rotary(
                items.pos_ids, columns=visual.grid[1], head_dim=config.head_dim, scale=visual.rope_scale
            )
        return Segment(found.tokens, (items.mask > 0) & found.kept[:, None], rotary)


class HistoryInput(nnx.Module):
    """Frames of pictures or spectrograms: features of the last block, resampled to a few latents per frame.

    A frame with any real patch contributes all its latents. Token j of frame f stands at row f, column j of a grid.
    """

    def __init__(self, config: ModelConfig, *, kind: str, rngs: nnx.Rngs):
        self.visual = Visual.of(config, kind)
        width = self.visual.resampler.emb_dim
        self.pre_projection = Dense(self.visual.vit.emb_dim, width, rngs=rngs)
        self.resampler = Resampler(self.visual.resampler, rngs=rngs)
        self.post_projection = Dense(width, config.emb_dim, rngs=rngs)
        self.modality = modality_vector(config, rngs)
        self.config, self.prefix = config, f"inputs/{kind}_history"

    def __call__(self, batch: Mapping[str, Array], *, tower: Tower, slots: int | None = None) -> Segment:
        config, visual, dtype = self.config, self.visual, jnp.dtype(self.config.dtype)
        rows, frames = batch[f"{self.prefix}/mask"].shape[:2]
        latents = visual.resampler.num_latents
        if frames > visual.resampler.max_frames:
            raise ConfigError(
                f"{self.prefix}/mask has {frames} frames; the model takes at most {visual.resampler.max_frames} "
                "(max_frames of the resampler)"
            )
        items = Patches.of(batch, self.prefix)
        tower = frozen(tower) if config.freeze_vit else tower

        def encode(p: Patches) -> Array:
            features = tower.last(p.values, mask=p.mask, pos_ids=p.pos_ids, grid=visual.history_grid)
            tokens = self.resampler(self.pre_projection(features.astype(dtype)), mask=p.mask > 0)
            return self.post_projection(tokens) + self.modality[...].astype(dtype)

        present = items.mask.any(axis=1)
        found = encode_real(encode, items, present=present, slots=slots)
        mask = jnp.repeat((present & found.kept).reshape(rows, frames), latents, axis=1)
        rotary = None
        if config.use_rotary:
            pos_ids = jnp.arange(frames * latents)
            rotary = grid_rotary(pos_ids, columns=latents, head_dim=config.head_dim)
            rotary = jnp.broadcast_to(rotary, (rows, *rotary.shape))
        return Segment(found.tokens.reshape(rows, frames * latents, -1), mask, rotary)
