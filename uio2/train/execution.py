"""Where a training runs: how many processes, which mesh of devices, which plan splits the parameters over it.

None of it is part of a recipe: the same training on another machine is the same artifact. So it comes from the
environment, as Beam's options do:
  UIO2_MESH         sizes of the mesh axes, `data=2,fsdp=4`; axes that are not named have size 1
  UIO2_PLAN         `data`, `fsdp`, `fsdp_tensor`, or rules from logical to mesh axes, `vocab=fsdp+tensor,embed=fsdp`
  UIO2_COORDINATOR  host:port of process 0, or `auto` where JAX knows its cluster (TPU pods, SLURM)
  UIO2_NUM_PROCESSES, UIO2_PROCESS_ID
  UIO2_PROFILE      START:STEPS, which steps to trace
Without UIO2_MESH all devices are on one axis, the one that the plan splits. Nothing heavy is imported here.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping

from uio2.pipeline.stage import UsageError

MESH, PLAN = "UIO2_MESH", "UIO2_PLAN"
COORDINATOR, NUM_PROCESSES, PROCESS_ID = "UIO2_COORDINATOR", "UIO2_NUM_PROCESSES", "UIO2_PROCESS_ID"
PROFILE = "UIO2_PROFILE"
AXES = ("data", "fsdp", "tensor")
NAMED_PLANS = ("data", "fsdp", "fsdp_tensor")
AUTO = "auto"

Rules = Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Execution:
    """Where to run.

    Attributes:
      mesh: sizes by axis; empty for all devices on one axis.
      plan: the name of a plan, or rules: logical axis of a parameter -> mesh axes it is split over.
      coordinator: address of process 0; empty for one process, `auto` to leave everything to JAX.
      processes, process: how many there are, and which this one is.
    """

    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    plan: str | Rules = "data"
    coordinator: str = ""
    processes: int = 1
    process: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Execution:
        """What the variables say.

        Raises:
          UsageError: one of them cannot be meant.
        """
        values = os.environ if environment is None else environment
        count, number = _integer(values, NUM_PROCESSES, 1), _integer(values, PROCESS_ID, 0)
        coordinator = values.get(COORDINATOR, "")
        if not 0 <= number < count:
            raise UsageError(f"{PROCESS_ID} is {number}; expected 0 to {NUM_PROCESSES} - 1, which is {count - 1}")
        if count > 1 and not coordinator:
            raise UsageError(f"{NUM_PROCESSES} is {count} without {COORDINATOR}; expected host:port of process 0")
        if coordinator not in ("", AUTO) and not coordinator.rpartition(":")[2].isdigit():
            raise UsageError(f"{COORDINATOR} is {coordinator!r}; expected host:port of process 0, or {AUTO}")
        return cls(_mesh(values.get(MESH, "")), _plan(values.get(PLAN, "") or "data"), coordinator, count, number)

    @property
    def devices(self) -> int:
        """How many the mesh names; 0 for all there are."""
        return math.prod(self.mesh.values()) if self.mesh else 0


def profile_window(text: str) -> tuple[int, int]:
    """(first step, from 1; how many) of `START:STEPS`; UsageError if it is something else."""
    start, _, steps = text.partition(":")
    if not (start.isdigit() and steps.isdigit() and int(start) and int(steps)):
        raise UsageError(f"{PROFILE} (--profile) is {text!r}; expected START:STEPS, both 1 or more, like 20:5")
    return int(start), int(steps)


def _integer(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name, "") or str(default)
    if not text.isdigit():
        raise UsageError(f"{name} is {text!r}; expected a whole number, 0 or more")
    return int(text)


def _pairs(name: str, text: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(",") if part]
    if not all(key and equals and value for key, equals, value in parts):
        raise UsageError(f"{name} is {text!r}; expected pairs like data=2,fsdp=4")
    return {key.strip(): value.strip() for key, _, value in parts}


def _mesh(text: str) -> dict[str, int]:
    sizes = _pairs(MESH, text)
    for axis, size in sizes.items():
        if axis not in AXES or not size.isdigit() or int(size) < 1:
            raise UsageError(f"{MESH} has {axis}={size}; expected 1 or more for one of {', '.join(AXES)}")
    return {axis: int(sizes.get(axis, 1)) for axis in AXES} if sizes else {}


def _plan(text: str) -> str | Rules:
    if "=" not in text:
        if text not in NAMED_PLANS:
            raise UsageError(
                f"{PLAN} is {text!r}; expected {', '.join(NAMED_PLANS)}, or rules like vocab=fsdp+tensor,embed=fsdp"
            )
        return text
    rules = {axis: tuple(value.split("+")) for axis, value in _pairs(PLAN, text).items()}
    for axis, wanted in rules.items():
        if set(wanted) - set(AXES):
            raise UsageError(f"{PLAN} splits {axis} over {'+'.join(wanted)}; expected mesh axes of {', '.join(AXES)}")
    return rules
