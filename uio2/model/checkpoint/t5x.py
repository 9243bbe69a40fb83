"""The published T5X parameter names: one entry per layer, '/'-joined paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from uio2.model.checkpoint import tree
from uio2.model.checkpoint.names import t5x_names
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


def from_tree(flat: Mapping[str, Any], *, config: ModelConfig) -> UnifiedIO2:
    """A model from T5X-named arrays; raises `CheckpointError` listing every path that does not fit."""
    tree.check_shapes(expected_shapes(config), {p: tuple(a.shape) for p, a in flat.items()})
    ours = {
        name: jnp.asarray(flat[theirs]) if isinstance(theirs, str) else jnp.stack([flat[p] for p in theirs])
        for name, theirs in t5x_names(config)
    }
    return tree.build(ours, config=config)


def to_tree(model: UnifiedIO2) -> dict[str, Any]:
    """The inverse of `from_tree`."""
    flat, result = tree.flatten(model), {}
    for name, theirs in t5x_names(model.config):
        if isinstance(theirs, str):
            result[theirs] = flat[name]
        else:
            result |= {path: flat[name][i] for i, path in enumerate(theirs)}
    return dict(sorted(result.items()))
