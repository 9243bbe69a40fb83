"""The smallest change that makes a step fit: each candidate is compiled, nothing is promised from an estimate.

The order is that of what a change costs: recomputing layers (a third more work at most), computing the batch in parts
(smaller products), splitting parameters (communication), then more chips.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

from uio2.pipeline.stage import StageError
from uio2.train.hardware.chips import TPU, Topology
from uio2.train.hardware.forecast import FITS, Forecast
from uio2.train.hardware.question import Question

REMATS = ("none", "dots", "full")
PARTS = (2, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class Change:
    """What to do otherwise, as the command line has it."""

    options: str
    question: Question


def changes(forecast: Forecast) -> Iterator[Change]:
    """Candidates, the smallest change first."""
    question = forecast.question
    # What no smaller activation can mend: the state itself leaves no room.
    if forecast.state + forecast.answer.batch_bytes < forecast.capacity * 0.9:
        yield from _cheaper_steps(question)
    if question.plan == "data":
        yield Change("--plan fsdp", dataclasses.replace(question, plan="fsdp", mesh={}))
    yield from _more_chips(question)


def _cheaper_steps(question: Question) -> Iterator[Change]:
    now = question.train.model_config["remat"]
    remats = REMATS[REMATS.index(now) + 1 :]
    for remat in remats:
        yield Change(f"--gin.REMAT=\"'{remat}'\"", _with(question, remat=remat))
    last = remats[-1] if remats else now
    options = f"--gin.REMAT=\"'{last}'\" " if remats else ""
    for parts in PARTS:
        if parts > question.train.step.microbatches:
            yield Change(f"{options}--gin.MICROBATCHES={parts}", _with(question, remat=last, parts=parts))


def _with(question: Question, *, remat: str, parts: int | None = None) -> Question:
    train = question.train
    step = train.step if parts is None else dataclasses.replace(train.step, microbatches=1)
    changed = dataclasses.replace(train, model_overrides={**train.model_overrides, "remat": remat}, step=step)
    if parts is not None:
        changed = dataclasses.replace(changed, step=dataclasses.replace(step, microbatches=parts))
    return dataclasses.replace(question, train=changed)


def _more_chips(question: Question) -> Iterator[Change]:
    topology = Topology.parse(question.topology)
    for _ in range(2):
        topology = _doubled(topology)
        mesh = dict(question.mesh)
        if mesh:
            axis = "fsdp" if mesh.get("fsdp", 1) > 1 or question.plan != "data" else "data"
            mesh[axis] = mesh.get(axis, 1) * topology.devices // Topology.parse(question.topology).devices
        options = f"--topology {topology.text}" + (f" --mesh {','.join(f'{k}={v}' for k, v in mesh.items())}"
                                                   if mesh else "")  # fmt: skip
        yield Change(options, dataclasses.replace(question, topology=topology.text, mesh=mesh))


def _doubled(topology: Topology) -> Topology:
    if topology.chip.platform != TPU:
        return Topology.parse(f"{topology.chip.name}:{2 * topology.devices}")
    smallest, *rest = sorted(int(side) for side in topology.shape.split("x"))
    sides = sorted([2 * smallest, *rest])
    return Topology.parse(f"{topology.chip.name}:{'x'.join(map(str, sides))}")


def find(
    forecast: Forecast, *, look: Callable[[Question], Forecast], tries: int
) -> tuple[Change, Forecast] | None:  # fmt: skip
    """The first candidate that fits.

    Args:
      forecast: what does not fit.
      look: compiles one.
      tries: how many at most.
    """
    for change in itertools.islice(changes(forecast), tries):
        try:
            found = look(change.question)
        except StageError:  # a batch that does not split so, or a compiler that gives up: not this one
            continue
        if found.verdict == FITS:
            return change, found
    return None
