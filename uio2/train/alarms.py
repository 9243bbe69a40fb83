"""What goes wrong in a training: losses that are not finite or jump, and a device that runs out of memory.

The loss of a step is looked at two steps later, when the device has it anyway, so that looking holds up nothing.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageError
from uio2.train.processes import Crew, PeerLost
from uio2.train.specs import AlarmSpec

BAD_BATCHES = "bad_batches.json"
# A counter in the state of an update that leaves out steps which are not finite; without it the loss is looked at.
SKIPPED = "skipped_in_a_row"
_LAG = 2
_RECENT, _FIRST = 100, 20
_NAMED = 5  # examples in a message; the file has all

Describe = Callable[[int], Sequence[Mapping[str, Any]]]


class Watch:
    """Looks at every step of a loop."""

    def __init__(self, spec: AlarmSpec, *, describe: Describe | None, folder: Path, leads: bool) -> None:
        """Args:
        spec: when to stop or warn.
        describe: step, from 1 -> the examples of its batch.
        folder: where the examples of bad batches are written.
        leads: whether this process writes and warns.
        """
        self._spec, self._describe, self._folder, self._leads = spec, describe, folder, leads
        self._waiting: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        self._recent: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._bad: list[int] = []
        self._sum = 0.0
        self._quiet_until = 0

    def see(self, step: int, state: Mapping[str, Any]) -> None:
        """Takes note of a step that was started, and looks at one before.

        Raises:
          StageError: too many steps in a row were not finite.
        """
        found = {"loss": state["sums"]["loss"]} | ({SKIPPED: state[SKIPPED]} if SKIPPED in state else {})
        self._waiting.append((step, _copy(found)))
        if len(self._waiting) > _LAG:
            self._look(*self._waiting.popleft())

    def settle(self) -> None:
        """Looks at all that is left, before the sums begin anew."""
        while self._waiting:
            self._look(*self._waiting.popleft())
        self._sum = 0.0

    def _look(self, step: int, found: Mapping[str, jax.Array]) -> None:
        loss = float(found["loss"]) - self._sum
        self._sum += loss if math.isfinite(loss) else 0.0
        skipped = int(found[SKIPPED]) if SKIPPED in found else None
        if not math.isfinite(loss) or skipped:
            self._bad = [*self._bad, step][-self._spec.nonfinite_steps :]
            if len(self._bad) >= self._spec.nonfinite_steps:
                self.stop(step, f"{len(self._bad)} steps in a row were not finite, the last of them step {step}")
            return
        self._bad = []
        self._compare(step, loss)

    def _compare(self, step: int, loss: float) -> None:
        usual = statistics.median(self._recent) if len(self._recent) >= _FIRST else math.inf
        self._recent.append(loss)
        factor = self._spec.spike_factor
        if not factor or loss <= factor * usual or step < self._quiet_until or not self._leads:
            return
        self._quiet_until = step + _RECENT
        print(f"warning: the loss of step {step} is {loss:.4g}, {loss / usual:.1f} times the usual {usual:.4g}"
              f"{self._examples([step])}")  # fmt: skip

    def stop(self, step: int, what: str) -> None:
        """Writes the examples of the bad steps and ends the training.

        Raises:
          StageError: always.
        """
        raise StageError(
            f"{what}; lower the learning rate or lengthen the warm-up, or look at the data"
            f"{self._examples(self._bad or [step])}"
        )

    def _examples(self, steps: Sequence[int]) -> str:
        if self._describe is None:
            return ""
        found = {str(step): [dict(example) for example in self._describe(step)] for step in steps}
        last = found[str(steps[-1])]
        named = ", ".join(" ".join(str(value) for value in example.values()) for example in last[:_NAMED])
        path = self._folder / BAD_BATCHES
        if self._leads:
            write_text(path, json.dumps(found, indent=1) + "\n")
        return f" (examples of step {steps[-1]}: {named}{', ...' if len(last) > _NAMED else ''}; all in {path})"


@jax.jit
def _copy(values: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The step that follows takes the state's own arrays over."""
    return jax.tree.map(jnp.copy, values)


@contextlib.contextmanager
def explained(crew: Crew) -> Iterator[None]:
    """Turns what JAX says of a full device, and of other processes that are gone, into what to do.

    Raises:
      StageError: the device has not enough memory.
      PeerLost: another process failed or is gone.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        first = str(error).splitlines()[0][:300]
        if "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower():
            raise StageError(
                f"the device has not enough memory for this step ({first}). What helps, the cheapest first: the "
                f"activations are recomputed (TrainSpec.model_overrides={{'remat': 'full'}}), a batch is worked "
                f"through in several microbatches, parameters and optimizer are split over the devices "
                f"(UIO2_PLAN=fsdp), a smaller batch_size; `uio2 plan-hardware` says what fits"
            ) from error
        if crew.count > 1:
            crew.raise_failure(wait_s=6.0)
            raise PeerLost(f"another process of this run is gone ({first}); start all processes again, they go on "
                           f"from the last checkpoint") from error  # fmt: skip
        raise
