"""Unified-IO 2 in Flax NNX: the model library every stage shares.

Shared tensors, defined once. b batch, t/s sequence positions, d model width, h heads, k head_dim,
v vocabulary, n image patches, p values in a patch (patch * patch * 3).

A *batch* is a flat dict:

| key | shape, dtype | meaning |
|---|---|---|
| inputs/text/tokens | [b, t] int32 | token ids; 0 is padding |
| inputs/text/mask | [b, t] int32 | 1 on real tokens |
| inputs/text/pos_ids | [b, t] int32 | rotary position |
| inputs/image/input | [b, n, p] float32 | normalised patches, values in (row, column, channel) order |
| inputs/image/mask | [b, n] int32 | 1 on patches that show picture, 0 on padding |
| inputs/image/pos_ids | [b, n] int32 | row-major index of the patch in the image grid |
| targets/text/inputs | [b, t] int32 | targets shifted right by one within each segment, 0 first |
| targets/text/targets | [b, t] int32 | token ids to predict |
| targets/text/mask | [b, t] int32 | 1 on real target tokens: attention and loss |
| targets/text/pos_ids | [b, t] int32 | rotary position, restarting in each segment |
| targets/text/segment_ids | [b, t] int32 | 1, 2, ... per target of one example; 0 padding |

Importing this package does not import jax; the classes load on first use.
"""

from typing import TYPE_CHECKING, Any

from uio2.model.config import ModelConfig
from uio2.model.parts import VitConfig

if TYPE_CHECKING:
    from uio2.model.loss import multimodal_loss
    from uio2.model.unified_io import ModalityOutput, UnifiedIO2

__all__ = ["ModalityOutput", "ModelConfig", "UnifiedIO2", "VitConfig", "multimodal_loss"]

_LAZY = {
    "UnifiedIO2": "uio2.model.unified_io",
    "ModalityOutput": "uio2.model.unified_io",
    "multimodal_loss": "uio2.model.loss",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
