"""Which axis of which parameter may be split over which devices.

Every parameter's axes have the logical names of the original (spec: layout/params_*.json, `axes`); a plan is one table
from logical names to axes of the mesh `(data, fsdp, tensor)`. A mesh axis splits a parameter once, at the first of
its axes that asks for it and whose length it divides: an embedding table is therefore split by rows alone, because
looking tokens up in one that is split both ways makes XLA rebuild the whole. Stacked layers are never split by layer,
and what has one axis (norms, biases) is whole on every device.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from uio2.model.parts import ConfigError

MESH_AXES = ("data", "fsdp", "tensor")
# Rows of a batch are split over these.
BATCH_AXES = ("data", "fsdp")
LAYERS = "layers"

_Axes = tuple[str, ...]
_CONV: _Axes = ("axis_0", "axis_1", "axis_2", "axis_3")
# By parameter name, `*` for any part of it; the first row that fits counts. Layers' own axis is not listed.
AXES: tuple[tuple[str, _Axes], ...] = (
    ("*/embedding", ("vocab", "embed")),
    ("image_target/codec/*norm*/*", ("axis_0",)),
    ("image_target/codec/*/kernel", _CONV),
    ("image_target/codec/*/bias", ("axis_3",)),
    ("audio_target/codec/*norm*/*", ("axis_0",)),
    ("audio_target/codec/decoder/unpatch", ("axis_0", "axis_1", "embed", "axis_3")),
    ("audio_target/codec/encoder/project/kernel", ("embed", "mlp")),
    ("audio_target/codec/decoder/expand/kernel", ("image_patch", "embed")),
    ("image_vit/patch/kernel", ("axis_0", "embed")),
    ("*/patch/kernel", ("image_patch", "embed")),
    ("*/patch/bias", ("embed",)),
    ("*_vit/positions", ("axis_0", "embed")),
    ("*/ln_[12]/*", ("axis_0",)),
    ("*/pre_ln/*", ("axis_0",)),
    ("*_history/resampler/latents", ("image_patch", "embed")),
    ("*projection/kernel", ("image_patch", "embed")),
    *((f"*/{part}/kernel", ("embed", "joined_kv")) for part in ("query", "key", "value")),
    *((f"*/{part}/bias", ("joined_kv",)) for part in ("query", "key", "value")),
    ("*/out/kernel", ("joined_kv", "embed")),
    ("*/logit_scale", ("heads",)),
    *((f"*/{part}/kernel", ("embed", "mlp")) for part in ("wi", "wi_0", "wi_1", "fc", "fc1")),
    *((f"*/{part}/bias", ("mlp",)) for part in ("fc", "fc1")),
    *((f"*/{part}/kernel", ("mlp", "embed")) for part in ("wo", "proj", "fc2")),
    *((f"*/{part}/bias", ("embed",)) for part in ("out", "proj", "fc2")),
    ("*norm/scale", ("embed",)),
    ("*modality", ("embed",)),
    ("*_vit/*_embedding", ("embed",)),
)
PLANS: dict[str, dict[str, tuple[str, ...]]] = {
    "data": {},
    "fsdp": {"vocab": ("fsdp",), "embed": ("fsdp",)},
    "fsdp_tensor": {
        "vocab": ("fsdp", "tensor"),
        "embed": ("fsdp",),
        "mlp": ("tensor",),
        "joined_kv": ("tensor",),
    },
}

# A name of `PLANS`, or rules of one's own: logical axis -> mesh axes.
Plan = str | Mapping[str, tuple[str, ...]]


def logical_axes(name: str) -> tuple[str, ...]:
    """The names of a parameter's axes; raises `ConfigError` for a parameter the table does not know."""
    for pattern, axes in AXES:
        if fnmatch.fnmatchcase(name, pattern):
            return (LAYERS, *axes) if "/blocks/layers/" in name else axes
    raise ConfigError(f"parameter {name!r} has no row in the table of logical axes (uio2/model/sharding.py)")


def rules(plan: Plan) -> Mapping[str, tuple[str, ...]]:
    """The table of a plan.

    Raises:
      ConfigError: no such plan, or own rules for an axis that no parameter has.
    """
    if isinstance(plan, str):
        if plan not in PLANS:
            raise ConfigError(f"plan is {plan!r}; expected one of {', '.join(PLANS)}, or rules by logical axis")
        return PLANS[plan]
    known = {axis for _, axes in AXES for axis in axes}
    for axis in plan:
        if axis not in known:
            raise ConfigError(f"the plan has a rule for axis {axis!r}; expected one of {', '.join(sorted(known))}")
    return plan


def partition_spec(name: str, shape: tuple[int, ...], *, plan: Plan, mesh: Mesh) -> PartitionSpec:
    """Where a parameter is split under a plan.

    Raises:
      ConfigError: no such plan, or a parameter without a row in the table.
    """
    table = rules(plan)
    axes, free = logical_axes(name), set(mesh.axis_names)
    if len(axes) - (LAYERS in axes) < 2:
        return PartitionSpec()
    parts: list[tuple[str, ...] | None] = []
    for axis, length in zip(axes, shape, strict=True):
        taken: list[str] = []
        for wanted in table.get(axis, ()):
            split = int(np.prod([mesh.shape[a] for a in (*taken, wanted) if a in free]))
            if wanted in free and length % split == 0:
                taken.append(wanted)
        free -= set(taken)
        parts.append(tuple(taken) or None)
    return PartitionSpec(*parts)


def make_mesh(*, data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over the first data * fsdp * tensor devices.

    Raises:
      ConfigError: there are fewer.
    """
    count, devices = data * fsdp * tensor, jax.devices()
    if count > len(devices):
        raise ConfigError(f"the mesh {data}x{fsdp}x{tensor} needs {count} devices; there are {len(devices)}")
    return Mesh(np.array(devices[:count]).reshape(data, fsdp, tensor), MESH_AXES)


def place[M: nnx.Module](model: M, *, plan: Plan, mesh: Mesh) -> M:
    """The model with every parameter on its devices."""
    graph, state = nnx.split(model)
    placed = []
    for key, leaf in nnx.to_flat_state(state):
        spec = partition_spec("/".join(map(str, key)), leaf.shape, plan=plan, mesh=mesh)
        placed.append((key, leaf.replace(jax.device_put(leaf[...], NamedSharding(mesh, spec)))))
    return nnx.merge(graph, nnx.from_flat_state(placed))


def place_batch(batch: Mapping[str, jax.typing.ArrayLike], *, mesh: Mesh) -> dict[str, jax.Array]:
    """A batch with its rows split over `BATCH_AXES`."""
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    return {key: jax.device_put(value, rows) for key, value in batch.items()}


def gathered(array: jax.Array) -> jax.Array:
    """The array whole on every device of its mesh; all processes that have parts of it must call this.

    Raises:
      ConfigError: its parts are not those of a mesh.
    """
    if not isinstance(array.sharding, NamedSharding):
        raise ConfigError(f"an array of several processes has the sharding {array.sharding}; expected a named one")
    return _gather(NamedSharding(array.sharding.mesh, PartitionSpec()))(array)


@functools.cache
def _gather(target: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda array: array, out_shardings=target)


@contextlib.contextmanager
def rows_split(mesh: Mesh | AbstractMesh) -> Iterator[None]:
    """What is traced inside knows the mesh whose `BATCH_AXES` split the rows of its batches; see `pin_rows`."""
    if mesh.size == 1:
        yield
        return
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield


def pin_rows(activations: Any) -> Any:
    """Activations (a tree of arrays, rows first) split by rows alone, inside `rows_split`; elsewhere as they are.

    Parameters that are split over the axes that split the rows leave the compiler a choice: bring the parameters
    together or spread features and bring the rows together. It took the second for `large` under `fsdp` on 32 chips:
    55.5 GiB of temporaries on each, where 11.1 do with whole parameters.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    parts = math.prod(mesh.shape[axis] for axis in axes)

    def pin(leaf: jax.Array) -> jax.Array:
        return leaf if leaf.shape[0] % parts else jax.lax.with_sharding_constraint(leaf, PartitionSpec(axes))

    return activations if parts == 1 else jax.tree.map(pin, activations)
