"""Unified-IO 2 in Flax NNX: the model library every stage shares.

Shared tensors, defined once. b batch, t/s sequence positions, d model width, h heads, k head_dim,
v vocabulary, n patches, f frames of history, p values in a patch (images: patch * patch * 3, spectrograms: patch *
patch).

A *batch* is a flat dict. A model reads the keys of its own modalities; a modality without any key is absent.

| key | shape, dtype | meaning |
|---|---|---|
| inputs/text/tokens | [b, t] int32 | token ids; 0 is padding |
| inputs/text/mask | [b, t] int32 | 1 on real tokens |
| inputs/text/pos_ids | [b, t] int32 | rotary position |
| inputs/image/input | [b, n, p] float32 | normalised patches, values in (row, column, channel) order |
| inputs/image/mask | [b, n] int32 | 1 on patches that show picture, 0 on padding |
| inputs/image/pos_ids | [b, n] int32 | row-major index of the patch in the image grid |
| inputs/audio/{input,mask,pos_ids} | as image | patches of a spectrogram, values in (time, frequency) order |
| inputs/image_history/input | [b, f, n, p] float32 | patches of several pictures |
| inputs/image_history/{mask,pos_ids} | [b, f, n] int32 | as image; a frame without any 1 is absent |
| inputs/audio_history/{input,mask,pos_ids} | as image_history | patches of several spectrograms |
| targets/text/inputs | [b, t] int32 | targets shifted right by one within each segment, 0 first |
| targets/text/targets | [b, t] int32 | token ids to predict |
| targets/text/mask | [b, t] int32 | 1 on real target tokens: attention and loss |
| targets/text/pos_ids | [b, t] int32 | rotary position, restarting in each segment |
| targets/text/segment_ids | [b, t] int32 | 1, 2, ... per target of one example; 0 padding |
| targets/image/image | [b, height, width, 3] float32 | picture in [-1, 1]; not read where codes are given |
| targets/image/codes | [b, t] int32 | optional: its codes, row-major, as `ImageCodec.encode` makes them |
| targets/image/mask | [b, t] int32 | 1 on real codes: attention |
| targets/image/loss_mask | [b, t] int32 | 1 on codes that count in the loss; optional, then `mask` |
| targets/image/task_mask | [b, t] int32 | 1 on codes hidden by the task; optional, then none |
| targets/audio/audio | [b, time, frequency, 1] float32 | normalised spectrogram |
| targets/audio/{codes,mask,loss_mask,task_mask} | as image | codes over (time, frequency) |
| packing/row | [g, e] int32 | packed batches, b = g * e: the row of each example in its group, -1 for none |
| packing/examples | [g, r] int32 | how many examples each of a group's r rows holds |

Importing this package does not import jax; the classes load on first use.
"""

from typing import TYPE_CHECKING, Any

from uio2.model.config import ModelConfig
from uio2.model.parts import VitConfig

if TYPE_CHECKING:
    from uio2.model.budget import item_budget
    from uio2.model.loss import multimodal_loss
    from uio2.model.packing import packing_metrics
    from uio2.model.unified_io import ModalityOutput, UnifiedIO2

__all__ = [
    "ModalityOutput",
    "ModelConfig",
    "UnifiedIO2",
    "VitConfig",
    "item_budget",
    "multimodal_loss",
    "packing_metrics",
]

_LAZY = {
    "UnifiedIO2": "uio2.model.unified_io",
    "ModalityOutput": "uio2.model.unified_io",
    "item_budget": "uio2.model.budget",
    "multimodal_loss": "uio2.model.loss",
    "packing_metrics": "uio2.model.packing",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
