"""Where arrays live: a mesh of devices, batches split by rows, parameters and optimizer state split by a plan.

Nothing is made whole on one host: parameters are initialised inside a jit whose outputs are already split, the
optimizer's moments stand beside their parameter, every process feeds its own rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from uio2.model.parts import ConfigError
from uio2.model.sharding import BATCH_AXES, Plan, gathered, make_mesh, partition_spec, rules
from uio2.pipeline.stage import StageError
from uio2.train.execution import MESH, Execution
from uio2.train.optim.names import parameter_name

Path = tuple[Any, ...]


def data_mesh(*, batch_size: int) -> Mesh:
    """A one-axis mesh `data` over every device.

    Raises:
      StageError: the batch cannot be split evenly.
    """
    return _checked(Mesh(np.array(jax.devices()), ("data",)), batch_size)


def open_mesh(execution: Execution, *, batch_size: int) -> Mesh:
    """The mesh of this run over all its devices.

    Args:
      execution: sizes; without them all devices are on the axis that the plan splits, or on `data`.
      batch_size: rows of a global batch (groups of a packed one), to be split evenly.

    Raises:
      StageError: too few devices, or a batch that cannot be split evenly.
    """
    if execution.mesh:
        count, here = execution.devices, len(jax.devices())
        if count != here and not (count < here and jax.process_count() == 1):
            raise StageError(f"{MESH} needs {count} devices; {here} are there, and a run of several processes uses all")
        return _checked(make_mesh(**execution.mesh), batch_size)
    wanted = {axis for axes in rules(execution.plan).values() for axis in axes}
    if len(wanted) > 1:
        raise StageError(f"plan {execution.plan} splits over {' and '.join(sorted(wanted))}; say by how much in {MESH}")
    axis = wanted.pop() if wanted else "data"
    return _checked(Mesh(np.array(jax.devices()), (axis,)), batch_size)


def _checked(mesh: Mesh, batch_size: int) -> Mesh:
    parts = math.prod(mesh.shape[axis] for axis in _batch_axes(mesh))
    if batch_size % parts:
        raise StageError(f"batch_size is {batch_size}; expected a multiple of the {parts} devices it is split over")
    return mesh


def _batch_axes(mesh: Mesh) -> tuple[str, ...]:
    return tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device, whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """Leading axis split over the axes that split batches."""
    return NamedSharding(mesh, PartitionSpec(_batch_axes(mesh)))


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of every global batch this process feeds: part `number` of `count` equal ones.

    Processes that split parameters among them (`tensor`) feed the same part.
    """

    count: int = 1
    number: int = 0

    @classmethod
    def of(cls, mesh: Mesh) -> Share:
        """This process's share."""
        axes = _batch_axes(mesh)
        parts = math.prod(mesh.shape[axis] for axis in axes)
        mine = by_rows(mesh).addressable_devices_indices_map((parts,)).values()
        rows = sorted({index[0].indices(parts)[0] for index in mine if index is not None})
        first, size = rows[0], len(rows)
        if rows != list(range(first, first + size)) or first % size or parts % size:
            raise StageError(f"the mesh {dict(mesh.shape)} gives this process rows {rows} of {parts}: not one block")
        return cls(parts // size, first // size)

    def take(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """This share of a global batch."""

        def part(value: np.ndarray) -> np.ndarray:
            rows = len(value) // self.count
            return value[self.number * rows : (self.number + 1) * rows]

        return {key: part(value) for key, value in batch.items()}


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """This process's rows of a global batch as global arrays; the numbers never pass through one host."""
    rows, share = by_rows(mesh), Share.of(mesh)
    return {
        key: jax.make_array_from_process_local_data(rows, value, (len(value) * share.count, *value.shape[1:]))
        for key, value in batch.items()
    }


def everywhere(values: Any, mesh: Mesh) -> Any:
    """A tree of host values, the same on all processes, whole on every device."""
    target = replicated(mesh)

    def put(value: Any) -> jax.Array:
        array = np.asarray(value)
        return jax.make_array_from_callback(array.shape, target, lambda index: array[index])

    return jax.tree.map(put, values)


def parameter_sharding(name: str, shape: tuple[int, ...], *, plan: Plan, mesh: Mesh) -> NamedSharding:
    """Where a parameter goes; one that the table of logical axes does not know stays whole."""
    if not any(axis in mesh.axis_names for axes in rules(plan).values() for axis in axes):
        return replicated(mesh)
    try:
        return NamedSharding(mesh, partition_spec(name, shape, plan=plan, mesh=mesh))
    except ConfigError:
        return replicated(mesh)


def parameter_shardings(params: Any, *, plan: Plan, mesh: Mesh) -> Any:
    """A tree of shardings like a tree of parameters, or of their shapes."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: parameter_sharding(parameter_name(path), leaf.shape, plan=plan, mesh=mesh), params
    )


def state_shardings(state: Mapping[str, Any], *, plan: Plan, mesh: Mesh) -> Any:
    """A tree of shardings like the state of a loop (or its shapes), in which `params` are the parameters.

    What stands elsewhere under the path of a parameter goes where it goes (moments, averages), also where one of its
    axes was summed away (factored moments). Everything else is whole on every device.
    """
    params = state["params"]
    places = parameter_shardings(params, plan=plan, mesh=mesh)
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    known = {path: (leaf.shape, where) for (path, leaf), where in zip(flat, jax.tree.leaves(places), strict=True)}

    def beside(path: Path, leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            if path[start:] in known:
                return _like(leaf.shape, *known[path[start:]], mesh=mesh)
        return replicated(mesh)

    rest = {key: value for key, value in state.items() if key != "params"}
    return jax.tree_util.tree_map_with_path(beside, rest) | {"params": places}


def _like(shape: tuple[int, ...], full: tuple[int, ...], where: NamedSharding, *, mesh: Mesh) -> NamedSharding:
    parts = tuple(where.spec) + (None,) * (len(full) - len(where.spec))
    if shape == full:
        return where
    fits = [n for n in range(len(full)) if shape == full[:n] + full[n + 1 :]]
    if fits:  # of a square one either way fits
        return NamedSharding(mesh, PartitionSpec(*(part for n, part in enumerate(parts) if n != fits[0])))
    return replicated(mesh)


def made_in_place(make: Callable[[], Any], shardings: Any) -> Any:
    """What `make` returns, computed where it goes: no device and no host ever holds it whole."""
    return jax.jit(make, out_shardings=shardings)()


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes and dtypes of a tree with their places, as a checkpoint is restored into."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree, shardings
    )


def whole(array: jax.Array) -> np.ndarray | None:
    """The values of an array on process 0, None elsewhere; all processes must call it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    found = gathered(array)
    return np.asarray(found.addressable_data(0)) if jax.process_index() == 0 else None
