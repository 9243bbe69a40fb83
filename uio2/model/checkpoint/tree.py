"""Parameters as a flat dict of arrays, and back into a model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from uio2.model.checkpoint.stored import Placement, Stored, place
from uio2.model.config import ModelConfig
from uio2.model.unified_io import UnifiedIO2


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or parameters that do not fit the model; then it lists every offending path."""


def _path(key: tuple[Any, ...]) -> str:
    return "/".join(str(part) for part in key)


def abstract_model(config: ModelConfig) -> UnifiedIO2:
    """The model with shapes in place of arrays; takes no memory."""
    return nnx.merge(*_abstract(config))


# Tracing all initialisers takes seconds, and a load asks for them three times.
@functools.lru_cache(maxsize=8)
def _abstract(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: UnifiedIO2(config, rngs=nnx.Rngs(0))))


def flatten(model: nnx.Module) -> dict[str, Any]:
    """{"encoder/norm/scale": array, ...}, sorted by name."""
    state = nnx.state(model, nnx.Param)
    return dict(sorted((_path(key), leaf[...]) for key, leaf in nnx.to_flat_state(state)))


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Our parameter names and shapes for a config."""
    _, state = _abstract(config)
    parameters = nnx.filter_state(state, nnx.Param)
    return dict(sorted((_path(key), tuple(leaf.shape)) for key, leaf in nnx.to_flat_state(parameters)))


def check(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Stored]) -> None:
    """Raises one `CheckpointError` that lists all missing, extra, misshapen and non-floating tensors."""
    wrong = [f"missing {p}: expected {expected[p]}, found nothing" for p in sorted(set(expected) - set(found))]
    wrong += [
        f"unexpected {p}: expected nothing, found {tuple(found[p].shape)}" for p in sorted(set(found) - set(expected))
    ]
    for path in sorted(set(expected) & set(found)):
        shape, dtype = tuple(found[path].shape), found[path].dtype
        if tuple(expected[path]) != shape:
            wrong.append(f"misshapen {path}: expected {tuple(expected[path])}, found {shape}")
        elif not jnp.issubdtype(dtype, jnp.floating):
            wrong.append(f"mistyped {path}: expected floating point numbers, found {dtype}")
    if wrong:
        raise CheckpointError(f"{len(wrong)} tensors do not fit the model config:\n  " + "\n  ".join(wrong))


def build(
    flat: Mapping[str, Stored], *, config: ModelConfig, dtype: Any = None, sharding: Placement | None = None
) -> UnifiedIO2:
    """A model that holds the arrays of `flat` (our names), read and placed one after another.

    Args:
      config: the model's.
      dtype: what to cast to; None keeps each array's own.
      sharding: where the parameter of a name goes; None, or None from it: the default device.
    """
    check(shapes(config), flat)
    graph, state = _abstract(config)
    filled = []
    for key, leaf in nnx.to_flat_state(state):
        name = _path(key)
        where = sharding(name) if sharding is not None else None
        filled.append((key, leaf.replace(place(flat[name], dtype=dtype, sharding=where))))
    return nnx.merge(graph, nnx.from_flat_state(filled))
