"""Low-rank adapters as a function of parameters: the model does not know of them.

`parameters` puts adapters beside a model's parameters, `merged` makes of both the parameters the model is called with:
kernel + alpha / rank * down @ up, layer by layer where layers are stacked. Training calls it inside the loss and export
calls it once, so a merged model computes what was trained. Each step holds the merged kernels for its duration; the
optimizer holds the adapters' moments alone.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from uio2.model.checkpoint import native
from uio2.pipeline.stage import StageError
from uio2.train.optim.names import (
    ADAPTERS,
    MODEL,
    check_patterns,
    is_stacked,
    matches,
    parameter_name,
    parameter_names,
)  # fmt: skip
from uio2.train.specs import LoraSpec

_KERNEL, _DOWN, _UP = "/kernel", "/down", "/up"
Adapters = dict[str, Array]


def dropped(values: Mapping[str, Any], spec: LoraSpec, *, step: Array, seed: int) -> dict[str, Any]:
    """The same with some of the adapters' input features hidden, as the loss of a step sees them.

    Args:
      values: what `parameters` makes.
      spec: settings.
      step: number of the step; with the seed and an adapter's name it decides what is hidden.
      seed: of the training.
    """
    keep = 1.0 - spec.dropout

    def hide(path: Any, leaf: Array) -> Array:
        name = parameter_name(path)
        if not name.endswith(_DOWN):
            return leaf
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _number(name)), step)
        kept = jax.random.bernoulli(key, keep, (*leaf.shape[:-1], 1))
        return jnp.where(kept, leaf / keep, 0.0).astype(leaf.dtype)

    return {**values, ADAPTERS: jax.tree_util.tree_map_with_path(hide, values[ADAPTERS])}


def _number(name: str) -> int:
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def parameters(params: Any, spec: LoraSpec, *, seed: int) -> dict[str, Any]:
    """{"model": params, "adapters": new ones}: `up` is 0, so that the model is still the same.

    Raises:
      StageError: a pattern that fits no dense layer, or no parameter.
    """
    shapes = _dense(params)
    check_patterns(spec.layers, shapes, field="LoraSpec.layers")
    check_patterns(spec.train, parameter_names(params), field="LoraSpec.train")
    adapters: Adapters = {}
    for layer, (*stack, width_in, width_out) in shapes.items():
        if matches(layer, spec.layers):
            # By name, so that a layer's adapter does not depend on which others there are.
            key = jax.random.fold_in(jax.random.key(seed), _number(layer))
            adapters[layer + _DOWN] = jax.random.normal(key, (*stack, width_in, spec.rank)) / np.sqrt(width_in)
            adapters[layer + _UP] = jnp.zeros((*stack, spec.rank, width_out))
    return {MODEL: params, ADAPTERS: native.nest(adapters)}


def merged(params: Mapping[str, Any], spec: LoraSpec) -> Any:
    """The model's parameters with the adapters in its kernels.

    Raises:
      StageError: an adapter of a layer the model does not have, or of another size.
    """
    adapters = dict(zip(parameter_names(params[ADAPTERS]), jax.tree.leaves(params[ADAPTERS]), strict=True))
    _check(adapters, _dense(params[MODEL]), spec)

    def one(path: Any, leaf: Array) -> Array:
        layer = parameter_name(path).removesuffix(_KERNEL)
        if layer + _DOWN not in adapters:
            return leaf
        return _merge(leaf, adapters[layer + _DOWN], adapters[layer + _UP], scale=spec.alpha / spec.rank)

    return jax.tree_util.tree_map_with_path(one, params[MODEL])


def _merge(
    kernel: Float[Array, "*layers i o"], down: Float[Array, "*layers i r"], up: Float[Array, "*layers r o"],
    *, scale: float,
) -> Float[Array, "*layers i o"]:  # fmt: skip
    change = jnp.matmul(down, up, precision=jax.lax.Precision.HIGHEST)
    return (kernel + scale * change).astype(kernel.dtype)


def _dense(params: Any) -> dict[str, tuple[int, ...]]:
    """Dense layers by name, with their kernels' shapes; convolutions are none."""
    found = zip(parameter_names(params), jax.tree.leaves(params), strict=True)
    return {
        name.removesuffix(_KERNEL): tuple(leaf.shape)
        for name, leaf in found
        if name.endswith(_KERNEL) and leaf.ndim - is_stacked(name) == 2
    }


def _check(adapters: Mapping[str, Any], layers: Mapping[str, tuple[int, ...]], spec: LoraSpec) -> None:
    for name, value in adapters.items():
        layer, _, part = name.rpartition("/")
        if layer not in layers:
            raise StageError(f"adapter {name}: the model has no dense layer {layer}; it was trained on another model")
        *stack, width_in, width_out = layers[layer]
        expected = (*stack, width_in, spec.rank) if f"/{part}" == _DOWN else (*stack, spec.rank, width_out)
        if tuple(value.shape) != expected:
            raise StageError(f"adapter {name} has shape {tuple(value.shape)}; expected {expected}")


def save(adapters: Any, spec: LoraSpec, path: Path) -> None:
    """Writes the adapters alone and their settings; `path` is a new directory."""
    path.mkdir(parents=True)
    names = parameter_names(adapters)
    flat = {name: np.asarray(leaf) for name, leaf in zip(names, jax.tree.leaves(adapters), strict=True)}
    native.save_arrays(flat, path / "params")
    (path / "lora.json").write_text(json.dumps(dataclasses.asdict(spec), indent=2, sort_keys=True) + "\n")


def load(path: Path) -> tuple[Any, LoraSpec]:
    """What `save` wrote: `merged({"model": params, "adapters": adapters}, spec)` puts them into a model.

    Raises:
      StageError: there are none.
    """
    if not (path / "lora.json").is_file():
        raise StageError(
            f"{path} holds no adapters: it has no lora.json; expected the folder adapters/ of a checkpoint"
        )
    values = json.loads((path / "lora.json").read_text())
    spec = LoraSpec(**values | {key: tuple(values[key]) for key in ("layers", "train")})
    arrays = {name: jnp.asarray(array) for name, array in native.load_arrays(path / "params").items()}
    return native.nest(arrays), spec
