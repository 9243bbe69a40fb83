"""The pure-function view of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx


def functional[M: nnx.Module](module: M) -> tuple[Callable[[Any], M], Any]:
    """(parameters -> module, parameters): what `jax.jit` and optax work on."""
    graph, params = nnx.split(module, nnx.Param)
    return (lambda values: nnx.merge(graph, values)), params
