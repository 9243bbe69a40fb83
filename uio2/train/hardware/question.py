"""What the compiling process is asked and what it answers, as JSON between two processes. Light."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from uio2.pipeline.stage import spec_from_json, spec_to_json
from uio2.tasks.specs import RegisterSpec
from uio2.train.execution import Rules
from uio2.train.specs import TrainSpec


@dataclasses.dataclass(frozen=True)
class Question:
    """A step on some chips.

    Attributes:
      register, train: the recipe.
      topology: as `Topology.parse` reads it.
      plan, mesh: as of `Execution`.
      compiles: whether to compile; without, only what follows from shapes is answered.
    """

    register: RegisterSpec
    train: TrainSpec
    topology: str
    plan: str | Rules
    mesh: Mapping[str, int]
    compiles: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return spec_to_json(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Question:
        """The inverse."""
        plan = values["plan"]
        return cls(
            register=spec_from_json(RegisterSpec, values["register"]),
            train=spec_from_json(TrainSpec, values["train"]),
            topology=values["topology"],
            plan=plan if isinstance(plan, str) else {axis: tuple(over) for axis, over in plan.items()},
            mesh=values["mesh"],
            compiles=values["compiles"],
        )


@dataclasses.dataclass(frozen=True)
class Answer:
    """Figures of a step.

    Attributes:
      parameters: how many numbers, and how many of them are trained.
      parameter_bytes, optimizer_bytes, other_bytes, batch_bytes: on one device; `other` are averages and counters.
      activation_bytes: on one device, what the forward pass keeps for the backward pass, of one microbatch, if nothing
        but batches is split.
      flops: of a step, the model's.
      mesh: sizes of its axes that are not 1.
      compiled: bytes on one device by the compiler (`total`, `temporary`), None where nothing was compiled.
      compile_s: seconds of tracing, lowering and compiling.
    """

    parameters: int
    trained: int
    parameter_bytes: int
    optimizer_bytes: int
    other_bytes: int
    batch_bytes: int
    activation_bytes: int
    flops: int
    mesh: Mapping[str, int]
    compiled: Mapping[str, int] | None = None
    compile_s: float = 0.0
