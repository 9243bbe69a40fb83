"""How many items (pictures, clips, frames) of a batch are really there, so that encoders run on those alone.

Shapes under `jax.jit` are static, so a number of places must be known before anything is traced. It is read from the
masks here, on the host, and rounded up to one of a few sizes: a size that is new compiles the program anew.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import ArrayLike

from uio2.model.config import INPUT_MODALITIES, TARGET_MODALITIES, ModelConfig
from uio2.model.parts import ConfigError

BUDGETS = (*(f"inputs/{m}" for m in INPUT_MODALITIES[1:]), *(f"targets/{m}" for m in TARGET_MODALITIES[1:]))
SIZES = 8


# By the start of their keys: how many items are there, and how many places.
Items = Mapping[str, tuple[int, int]]


def item_budget(batch: Mapping[str, ArrayLike], *, config: ModelConfig, sizes: int = SIZES) -> dict[str, int]:
    """The `budget` of `UnifiedIO2.__call__` that a batch needs: `budget_of` its `count_items`."""
    return budget_of(count_items(batch, config=config), sizes=sizes)


def count_items(batch: Mapping[str, ArrayLike], *, config: ModelConfig) -> dict[str, tuple[int, int]]:
    """What of a batch is there; counts of the parts of a batch add up to those of the whole.

    Args:
      batch: a batch, or its inputs alone; its masks must be values, not tracers.
      config: the model's; modalities it lacks need no places.
    """
    found: dict[str, tuple[int, int]] = {}
    for name in BUDGETS:
        side, modality = name.split("/")
        mine = config.input_modalities if side == "inputs" else config.target_modalities
        # Ready codes need no codec, so there is nothing to save.
        if modality not in mine or f"{name}/mask" not in batch or f"{name}/codes" in batch:
            continue
        present = (np.asarray(batch[f"{name}/mask"]) > 0).any(axis=-1)
        found[name] = int(present.sum()), present.size
    return found


def budget_of(items: Items, *, sizes: int = SIZES) -> dict[str, int]:
    """Places for these items, by the start of their keys; without those of which every place is needed.

    Args:
      items: of the whole batch.
      sizes: how many different budgets a modality may have beside 0: what is needed is rounded up to a multiple of
        that share of all places.
    """
    found: dict[str, int] = {}
    for name, (present, places) in items.items():
        step = -(-places // sizes)
        slots = -(-present // step) * step
        if slots < places:
            found[name] = slots
    return found


def known_budget(batch: Mapping[str, ArrayLike], *, config: ModelConfig) -> dict[str, int]:
    """`item_budget` where the masks are values; empty, which encodes every place, inside a traced function."""
    masks = [value for key, value in batch.items() if key.endswith("/mask")]
    return {} if any(isinstance(mask, jax.core.Tracer) for mask in masks) else item_budget(batch, config=config)


def checked_budget(budget: Mapping[str, int] | None) -> Mapping[str, int]:
    """The budget, empty for None.

    Raises:
      ConfigError: an unknown name or a negative number.
    """
    for name, slots in (budget or {}).items():
        if name not in BUDGETS or slots < 0:
            raise ConfigError(f"budget[{name!r}] is {slots}; expected 0 or more for one of {', '.join(BUDGETS)}")
    return budget or {}
