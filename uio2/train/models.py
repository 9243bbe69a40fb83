"""The pure-function view of a module, and parameters that are made where they go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from uio2.model import UnifiedIO2
from uio2.model.checkpoint import tree
from uio2.model.checkpoint.stored import Placement
from uio2.model.config import ModelConfig
from uio2.model.sharding import Plan
from uio2.train.optim.names import parameter_name
from uio2.train.sharding import made_in_place, parameter_sharding


def functional[M: nnx.Module](module: M) -> tuple[Callable[[Any], M], Any]:
    """(parameters -> module, parameters): what `jax.jit` and optax work on."""
    graph, params = nnx.split(module, nnx.Param)
    return (lambda values: nnx.merge(graph, values)), params


@dataclasses.dataclass(frozen=True)
class Start:
    """Parameters that are made only where no checkpoint is found.

    Attributes:
      shapes: the tree, with shapes and dtypes.
      make: the tree with arrays at their places.
    """

    shapes: Any
    make: Callable[[], Any]

    @classmethod
    def of(cls, params: Any) -> Start:
        """Parameters that are there already, or a `Start`."""
        if isinstance(params, Start):
            return params
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        return cls(shapes, lambda: params)


def placement(config: ModelConfig, *, plan: Plan, mesh: Mesh) -> Placement:
    """Parameter name -> where a plan puts it."""
    shapes = tree.shapes(config)
    return lambda name: parameter_sharding(name, shapes[name], plan=plan, mesh=mesh)


def on_one_device(name: str) -> jax.sharding.Sharding:
    """The placement of all parameters on the first device."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def fresh_model(config: ModelConfig, *, seed: int, sharding: Placement = on_one_device) -> UnifiedIO2:
    """A model with new parameters, each device making its own part of each.

    The numbers do not depend on the sharding; they are those of `UnifiedIO2(config, rngs=nnx.Rngs(seed))`.
    """
    graph, shapes = nnx.split(tree.abstract_model(config), nnx.Param)
    places = jax.tree_util.tree_map_with_path(lambda path, _: sharding(parameter_name(path)), shapes)
    made = made_in_place(lambda: nnx.split(UnifiedIO2(config, rngs=nnx.Rngs(seed)), nnx.Param)[1], places)
    return nnx.merge(graph, made)
