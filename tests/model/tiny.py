"""A model with every part, small enough to run in a moment, and batches for it."""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.model.reference import parameter
from uio2.model import ModelConfig, UnifiedIO2, VitConfig
from uio2.model.checkpoint import tree
from uio2.model.parts import AudioCodecConfig, CodecTransformerConfig, ImageCodecConfig, ResamplerConfig

_VIT = VitConfig(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_layers=2, num_positions=5)
_RESAMPLER = ResamplerConfig(
    emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=3, num_latents=3, max_frames=4
)  # fmt: skip
_HALF = CodecTransformerConfig(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_layers=1)
EVERYTHING = ModelConfig(
    emb_dim=32, num_heads=2, head_dim=8, mlp_dim=48, num_encoder_layers=2, num_decoder_layers=2,
    text_vocab_size=64, image_vocab_size=40, audio_vocab_size=24,
    encoder_max_text_length=8, decoder_max_text_length=6,
    image_size=(8, 12), image_history_size=(8, 8), image_patch_size=4,
    audio_size=(8, 4), audio_history_size=(8, 4), audio_patch_size=2,
    image_vit=_VIT, audio_vit=dataclasses.replace(_VIT, num_positions=12),
    image_resampler=_RESAMPLER, audio_resampler=dataclasses.replace(_RESAMPLER, num_latents=2),
    image_codec=ImageCodecConfig(
        channels=32, multipliers=(1, 2), num_res_blocks=1, num_codes=32, image_size=(8, 8), attention_sides=(4,)
    ),
    audio_codec=AudioCodecConfig(
        encoder=_HALF, decoder=_HALF, code_dim=8, num_codes=16, spectrogram_size=(16, 24), patch_size=8
    ),
)  # fmt: skip


def make(config: ModelConfig = EVERYTHING) -> UnifiedIO2:
    """A model with parameters of every kind away from zero and one; faster than the initialisers."""
    flat = {name: parameter(name, shape) for name, shape in tree.shapes(config).items()}
    return tree.build(flat, config=config)


def everything(*, rows: int = 4, frames: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch with every modality, about half of all items and tokens real; the first example has all."""
    rng, config = np.random.default_rng(seed), EVERYTHING
    batch: dict[str, np.ndarray] = {}

    def prefix_mask(length: int, *lead: int, at_least: int = 0) -> np.ndarray:
        count = rng.integers(at_least, length + 1, lead) * (rng.random(lead) < 0.7)
        count = np.maximum(count, at_least)
        count[0] = length
        return (np.arange(length) < count[..., None]).astype(np.int32)

    def positions(length: int, *lead: int) -> np.ndarray:
        return np.broadcast_to(np.arange(length, dtype=np.int32), (*lead, length)).copy()

    t, s = config.encoder_max_text_length, config.decoder_max_text_length
    mask = prefix_mask(t, rows, at_least=1)
    batch |= {"inputs/text/tokens": rng.integers(2, 64, (rows, t)).astype(np.int32) * mask,
              "inputs/text/mask": mask, "inputs/text/pos_ids": positions(t, rows)}  # fmt: skip
    for name, patches, width, lead in (
        ("image", config.num_patches, config.patch_dim, (rows,)),
        ("image_history", 4, config.patch_dim, (rows, frames)),
        ("audio", 8, config.audio_patch_dim, (rows,)),
        ("audio_history", 8, config.audio_patch_dim, (rows, frames)),
    ):
        mask = prefix_mask(patches, *lead)
        values = rng.standard_normal((*lead, patches, width)).astype(np.float32) * mask.any(-1)[..., None, None]
        batch |= {f"inputs/{name}/input": values, f"inputs/{name}/mask": mask,
                  f"inputs/{name}/pos_ids": positions(patches, *lead)}  # fmt: skip
    mask = prefix_mask(s, rows, at_least=2)
    targets = rng.integers(2, 64, (rows, s)).astype(np.int32) * mask
    batch |= {"targets/text/targets": targets, "targets/text/inputs": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
              "targets/text/mask": mask, "targets/text/pos_ids": positions(s, rows),
              "targets/text/segment_ids": mask.copy()}  # fmt: skip
    for name, shape, length in (("image", (8, 8, 3), 16), ("audio", (24, 16, 1), 6)):
        mask = np.repeat((np.arange(rows) % 2 == 0).astype(np.int32)[:, None], length, axis=1)
        values = rng.uniform(-1, 1, (rows, *shape)).astype(np.float32) * mask[:, 0].reshape(-1, 1, 1, 1)
        batch |= {f"targets/{name}/{name}": values, f"targets/{name}/mask": mask, f"targets/{name}/loss_mask": mask,
                  f"targets/{name}/task_mask": np.zeros_like(mask)}  # fmt: skip
    return batch


def seeded_codes(*, rows: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Ready codes, so that a test of something else need not run the codecs."""
    rng = np.random.default_rng(seed)
    return {"targets/image/codes": rng.integers(0, 32, (rows, 16)).astype(np.int32),
            "targets/audio/codes": rng.integers(0, 16, (rows, 6)).astype(np.int32)}  # fmt: skip
