"""Parameters as a flat dict of arrays, and back into a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from uio2.model.config import ModelConfig
from uio2.model.unified_io import UnifiedIO2

SHOWN = 20


class CheckpointError(ValueError):
    """Parameters that do not fit the model; lists every offending path."""


def _path(key: tuple[Any, ...]) -> str:
    return "/".join(str(part) for part in key)


def abstract_model(config: ModelConfig) -> UnifiedIO2:
    """The model with shapes in place of arrays; takes no memory."""
    return nnx.eval_shape(lambda: UnifiedIO2(config, rngs=nnx.Rngs(0)))


def flatten(model: nnx.Module) -> dict[str, Any]:
    """{"encoder/norm/scale": array, ...}, sorted by name."""
    state = nnx.state(model, nnx.Param)
    return dict(sorted((_path(key), leaf[...]) for key, leaf in nnx.to_flat_state(state)))


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Our parameter names and shapes for a config."""
    state = nnx.state(abstract_model(config), nnx.Param)
    return dict(sorted((_path(key), tuple(leaf.shape)) for key, leaf in nnx.to_flat_state(state)))


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Raises one `CheckpointError` that lists all missing, extra and misshapen tensors."""
    wrong = [f"missing {p}: expected {expected[p]}" for p in sorted(set(expected) - set(found))]
    wrong += [f"unexpected {p}: found {found[p]}" for p in sorted(set(found) - set(expected))]
    wrong += [
        f"misshapen {p}: expected {expected[p]}, found {found[p]}"
        for p in sorted(set(expected) & set(found))
        if tuple(expected[p]) != tuple(found[p])
    ]
    if wrong:
        raise CheckpointError(f"{len(wrong)} tensors do not fit the model config:\n  " + "\n  ".join(wrong))


def build(flat: Mapping[str, Any], *, config: ModelConfig) -> UnifiedIO2:
    """A model that holds the arrays of `flat` (our names)."""
    check_shapes(shapes(config), {p: tuple(a.shape) for p, a in flat.items()})
    model = abstract_model(config)
    graph, state = nnx.split(model)
    filled = [(key, leaf.replace(jax.numpy.asarray(flat[_path(key)]))) for key, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(filled))
