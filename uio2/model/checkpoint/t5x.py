"""Models as T5X checkpoints: the published parameter names, one entry per layer, '/'-joined paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from uio2.model.checkpoint import t5x_files, tree
from uio2.model.checkpoint.modalities import match
from uio2.model.checkpoint.names import t5x_names
from uio2.model.checkpoint.stored import Layer, Placement, Stacked, Stored
from uio2.model.config import ModelConfig
from uio2.model.unified_io import UnifiedIO2


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """{T5X path: shape} of every parameter the config needs."""
    ours, result = tree.shapes(config), {}
    for name, theirs in t5x_names(config):
        if isinstance(theirs, str):
            result[theirs] = ours[name]
        else:
            result |= dict.fromkeys(theirs, ours[name][1:])
    return dict(sorted(result.items()))


def load(
    path: str | Path, *, config: ModelConfig, dtype: Any = jnp.float32, sharding: Placement | None = None
) -> UnifiedIO2:
    """The model in a T5X checkpoint directory, with or without an optimizer state beside it.

    Args:
      path: the directory that holds the file `checkpoint`.
      config: the model's; modalities it leaves out are not read.
      dtype: of the parameters in memory; None keeps what each was stored in.
      sharding: our parameter name -> where it goes; each device reads its own part.

    Raises:
      CheckpointError: tensors are missing, too many, of another shape or unreadable; one error lists them all.
    """
    return from_tree(t5x_files.read_target(path), config=config, dtype=dtype, sharding=sharding)


def save(model: UnifiedIO2, path: str | Path, *, optimizer_state: t5x_files.OptimizerState | None = None) -> None:
    """Writes a directory that `load` and T5X read, each parameter in the dtype it has; `path` must not exist."""
    t5x_files.write(path, views(model), optimizer_state=optimizer_state)


def load_optimizer_state(path: str | Path) -> t5x_files.OptimizerState:
    """Step and slots of the original's Adafactor, read when asked for.

    Raises:
      CheckpointError: the checkpoint holds parameters only.
    """
    return t5x_files.read_optimizer_state(path)


def from_tree(
    flat: Mapping[str, Stored], *, config: ModelConfig, dtype: Any = jnp.float32, sharding: Placement | None = None
) -> UnifiedIO2:
    """A model from T5X-named arrays; see `load`."""
    return build(fitting(flat, config=config), config=config, dtype=dtype, sharding=sharding)


def fitting(flat: Mapping[str, Stored], *, config: ModelConfig) -> dict[str, Stored]:
    """The arrays of `flat` that are those of `expected_shapes`; nothing is read. Raises as `load`."""
    expected = expected_shapes(config)
    found = {ours: flat[theirs] for ours, theirs in match(expected, flat, config=config).items()}
    tree.check(expected, found)
    return found


def build(fitting: Mapping[str, Stored], *, config: ModelConfig, dtype: Any, sharding: Placement | None) -> UnifiedIO2:
    """A model from arrays that are those of `expected_shapes`, layers stacked as they are read."""
    ours: dict[str, Stored] = {
        name: fitting[theirs] if isinstance(theirs, str) else Stacked([fitting[path] for path in theirs])
        for name, theirs in t5x_names(config)
    }
    return tree.build(ours, config=config, dtype=dtype, sharding=sharding)


def views(model: UnifiedIO2) -> dict[str, Stored]:
    """T5X path -> the model's array, or one layer of it when it is asked for."""
    flat: Mapping[str, Stored] = tree.flatten(model)
    result: dict[str, Stored] = {}
    for name, theirs in t5x_names(model.config):
        if isinstance(theirs, str):
            result[theirs] = flat[name]
        else:
            result |= {path: Layer(flat[name], i) for i, path in enumerate(theirs)}
    return dict(sorted(result.items()))


def to_tree(model: UnifiedIO2) -> dict[str, Any]:
    """The inverse of `from_tree`, all arrays at once."""
    return {path: view.read() if isinstance(view, Layer) else view for path, view in views(model).items()}
