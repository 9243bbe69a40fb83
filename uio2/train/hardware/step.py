"""The step of a recipe for devices that are not here: its state where the plan puts it, its operations, its program.

It is the train stage's own step (`uio2.train.program`, `uio2.train.loop`), given shapes in place of arrays.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from uio2.model.config import ModelConfig
from uio2.model.sharding import BATCH_AXES, MESH_AXES, rules
from uio2.pipeline.stage import StageError
from uio2.train.counting import step_operations
from uio2.train.hardware.batch import fullest
from uio2.train.hardware.chips import Topology
from uio2.train.hardware.devices import devices
from uio2.train.hardware.question import Answer, Question
from uio2.train.loop import Loop, prepare
from uio2.train.microbatches import split
from uio2.train.models import Start
from uio2.train.program import Program, start_of
from uio2.train.sharding import by_rows
from uio2.train.specs import TrainSpec

# libtpu: "... the total memory required for HLO temporaries (55.50G) exceeds available HBM (15.75G)", or what is used
# with arguments, "Used 20.1G of 15.75G hbm".
_TEMPORARY = re.compile(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds")
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def answer(question: Question) -> Answer:
    """Looks at the step and, if asked, compiles it."""
    began = time.monotonic()
    spec = question.train
    mesh = _mesh(question)
    batch = fullest(question.register, rows=spec.batch_size)
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES if axis in mesh.axis_names)
    if spec.batch_size % (parts * spec.step.microbatches):
        raise StageError(f"BATCH_SIZE is {spec.batch_size}; expected a multiple of {parts * spec.step.microbatches}, "
                         f"{parts} devices times {spec.step.microbatches} microbatches")  # fmt: skip
    loop, start = _loop(spec, question, mesh)
    update, state, _ = prepare(loop, start, batch)
    found = Answer(
        parameters=_count(start.shapes),
        trained=_count(_trained(loop, start.shapes)[0]),
        parameter_bytes=_bytes(state["params"]),
        optimizer_bytes=_bytes(state["optimizer"]),
        other_bytes=_bytes({key: value for key, value in state.items() if key not in ("params", "optimizer")}),
        batch_bytes=sum(value.nbytes for value in batch.values()) // parts,
        activation_bytes=_activations(loop, start, batch) // parts,
        flops=_operations(loop, spec, batch),
        mesh={axis: size for axis, size in mesh.shape.items() if size > 1},
    )
    if not question.compiles:
        return found
    sizes = _compile(loop, update, state, batch)
    return dataclasses.replace(found, compiled=sizes, compile_s=round(time.monotonic() - began, 1))


def _mesh(question: Question) -> Any:
    """The mesh as a run makes it: as asked, else all devices on the axis that the plan splits."""
    topology = Topology.parse(question.topology)
    if question.mesh:
        sizes = {axis: question.mesh.get(axis, 1) for axis in MESH_AXES}
    else:
        wanted = {axis for axes in rules(question.plan).values() for axis in axes}
        if len(wanted) > 1:
            raise StageError(f"plan {question.plan} splits over {' and '.join(sorted(wanted))}; say by how much with "
                             "--mesh fsdp=8,tensor=4")  # fmt: skip
        sizes = {wanted.pop() if wanted else "data": topology.devices}
    count = math.prod(sizes.values())
    if count != topology.devices:
        raise StageError(f"the mesh {sizes} has {count} devices and {topology.text} {topology.devices}; give --mesh "
                         "sizes whose product is that")  # fmt: skip
    shape, axes = tuple(sizes.values()), tuple(sizes)
    if not question.compiles:
        return AbstractMesh(shape, axes, axis_types=(AxisType.Auto,) * len(axes))  # as of a `Mesh`
    return Mesh(np.array(devices(topology)).reshape(shape), axes)


def _loop(spec: TrainSpec, question: Question, mesh: Any) -> tuple[Loop, Start]:
    config = ModelConfig.from_dict(spec.model_config)
    module, start = start_of(spec, config, inputs={}, plan=question.plan, mesh=mesh)

    def no_data(step: int) -> Any:
        raise StageError(f"step {step} of a training that is only planned")

    return Program(spec, config, module).loop(batches=no_data, mesh=mesh, plan=question.plan), start


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
    """Of one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _trained(loop: Loop, params: Any) -> tuple[list[Any], Any]:
    """(leaves that are trained, these and all parameters -> parameters)."""
    leaves, tree = jax.tree.flatten(params)
    mask = loop.trainable.mask(params)

    def rebuild(trained: list[Any], everything: Any) -> Any:
        values = iter(trained)
        each = zip(mask, jax.tree.leaves(everything), strict=True)
        return jax.tree.unflatten(tree, [next(values) if mine else other for mine, other in each])

    return [leaf for leaf, mine in zip(leaves, mask, strict=True) if mine], rebuild


def _operations(loop: Loop, spec: TrainSpec, batch: Mapping[str, np.ndarray]) -> int:
    return step_operations(spec, _shapes(batch), loop.static(batch) if loop.static else None)


def _activations(loop: Loop, start: Start, batch: Mapping[str, np.ndarray]) -> int:
    """Bytes that a microbatch leaves from forward to backward pass, without what is shaped like a parameter."""
    static = loop.static(batch) if loop.static else None
    trained, rebuild = _trained(loop, start.shapes)
    known = {leaf.shape for leaf in jax.tree.leaves(start.shapes)}
    parts = loop.step.microbatches
    one = batch if parts == 1 else {key: value[0] for key, value in split(batch, parts).items()}

    def kept(leaves: list[Any], params: Any, batch: Any) -> Any:
        loss = lambda these: loop.loss(rebuild(these, params), batch, static=static)[0]  # noqa: E731
        return jax.tree.leaves(jax.vjp(loss, leaves)[1])

    left = jax.eval_shape(kept, trained, start.shapes, _shapes(one))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in left if leaf.shape not in known)


def _shapes(batch: Mapping[str, np.ndarray], **more: Any) -> dict[str, Any]:
    return {key: jax.ShapeDtypeStruct(value.shape, value.dtype, **more) for key, value in batch.items()}


def _compile(loop: Loop, update: Any, state: Any, batch: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Bytes of one device, whether they are there or not."""
    static = loop.static(batch) if loop.static else None
    given = _shapes(batch, sharding=by_rows(loop.mesh))
    try:
        program = update.lower(state, given, static).compile()
    except jax.errors.JaxRuntimeError as error:
        return _read(str(error), arguments=_bytes((state, given)))
    found = program.memory_analysis()
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    temporary = found.temp_size_in_bytes + outputs
    return {"total": found.argument_size_in_bytes + temporary, "temporary": temporary}


def _read(message: str, *, arguments: int) -> dict[str, int]:
    """What a compiler says that ran out of the device's memory."""
    if found := _TEMPORARY.search(message):
        temporary = _size(found[1], found[2])
        return {"total": arguments + temporary, "temporary": temporary}
    if found := _USED.search(message):
        total = _size(found[1], found[2])
        return {"total": total, "temporary": max(total - arguments, 0)}
    raise StageError(f"the compiler gave up: {message[:600]}")


def _size(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit.upper()])
