"""What a training run costs: where its time goes, how fast it is, how much memory it takes.

Nothing here is part of the artifact: the figures go into the metric stream and into `goodput.jsonl` of the scratch
folder, which outlives a kill as the checkpoints do.

A second of the run is spent on one thing: `input` (the devices have nothing to do because a batch is not there),
`compile` (the first call of the step for something it was not compiled for), `checkpoint`, what else the loop names
(`evaluation`), or on steps. Goodput is the time of steps that still count, those that a restart had to do again left
out, as a share of the wall time since the first start: start-ups, and the time nothing ran, count against it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import psutil

from uio2.pipeline.atomic import write_text
from uio2.train.hardware.chips import peak_flops
from uio2.train.operations import Operations

if TYPE_CHECKING:
    from uio2.train.loop import Batch, Loop

GOODPUT = "goodput.jsonl"
INPUT, COMPILE, CHECKPOINT, EVALUATION = "input", "compile", "checkpoint", "evaluation"
_GIB = 2**30


class Meter:
    """Measures one attempt of a loop; on a process that does not lead it measures and writes nothing down."""

    def __init__(self, loop: Loop, *, folder: Path, leads: bool, first: int) -> None:
        """Args:
        loop: what is trained.
        folder: scratch of the run.
        leads: whether this process writes.
        first: the step this attempt goes on from.
        """
        self._began = time.monotonic()
        self._goodput = Goodput.open(folder / GOODPUT, first=first, writes=leads)
        self._operations = Operations(loop.flops if leads else None, loop.mesh)
        self._peak = peak_flops(jax.local_devices()[0].device_kind) * loop.mesh.size
        self._last: Any = None  # array of the step started last
        self._compiled: set[Hashable] = set()
        self._first, self._done, self._marked = first, first, self._began
        self._spent: dict[str, float] = {}
        self._since, self._since_step = self._began, first
        self._all: dict[str, float] = {}
        self._sums: dict[str, float] = {}

    @contextlib.contextmanager
    def spending(self, what: str) -> Iterator[None]:
        """Seconds that are not spent on steps."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spend(what, time.monotonic() - began)

    def see(self, state: Mapping[str, Any]) -> None:
        """Takes note of what a step that was started will leave."""
        self._last = state["steps"]

    def waiting[T](self, stream: Iterable[T]) -> Iterator[T]:
        """The stream; time spent on it counts as input if the devices had nothing to do when the batch came."""
        steps = iter(stream)
        while True:
            began = time.monotonic()
            try:
                step = next(steps)
            except StopIteration:
                return
            if self._last is None or self._last.is_ready():
                self._spend(INPUT, time.monotonic() - began)
            yield step

    def _spend(self, what: str, seconds: float) -> None:
        self._spent[what] = self._spent.get(what, 0.0) + seconds

    @contextlib.contextmanager
    def step(self, done: int, batch: Batch, static: Hashable) -> Iterator[None]:
        """Around the call of the jitted step: the first one for a `static` compiles."""
        self._done = done
        shapes = {key: (value.shape, value.dtype) for key, value in batch.items()}
        program = (static, tuple(sorted((key, shape) for key, (shape, _) in shapes.items())))
        self._operations.add(program, shapes, static)
        if program in self._compiled:
            yield
            return
        with self.spending(COMPILE):
            yield
        self._compiled.add(program)

    def mark(self) -> None:
        """The step done last can be gone on from, or is a row of the log: what was done until here is noted."""
        now = time.monotonic()
        useful = now - self._marked - sum(self._spent.values())
        self._goodput.add(self._done, max(useful, 0.0))
        self._marked = now
        for sums in (self._all, self._sums):
            for what, seconds in self._spent.items():
                sums[what] = sums.get(what, 0.0) + seconds
        self._spent = {}

    def row(self, row: Mapping[str, float]) -> dict[str, float]:
        """Figures of the steps since the last row of the log, which is this one now."""
        self.mark()
        now, steps = time.monotonic(), self._done - self._since_step
        wall, sums = max(now - self._since, 1e-9), self._sums
        self._since, self._since_step, self._sums = now, self._done, {}
        busy = max(wall - sum(v for k, v in sums.items() if k != INPUT), 1e-9)
        found = {"speed/steps_per_s": steps / busy}
        if tokens := _tokens(row):
            found |= {f"speed/{key}_tokens_per_s": value * steps / busy for key, value in tokens.items()}
        if operations := self._operations.since():
            found["speed/model_tflops_per_s"] = operations / busy / 1e12
            if self._peak:
                found["speed/mfu"] = operations / busy / self._peak
        for what in (INPUT, COMPILE, CHECKPOINT, EVALUATION):
            found[f"time/{what}"] = sums.get(what, 0.0) / wall
        return found | memory() | {"goodput": self._goodput.share}

    def text(self) -> str:
        """For people, at the end of the run."""
        self.mark()
        wall = max(time.monotonic() - self._began, 1e-9)
        parts = ", ".join(f"{what} {seconds / wall:.1%}" for what, seconds in sorted(self._all.items()))
        times = f" in {self._goodput.attempt} attempts" if self._goodput.attempt > 1 else ""
        rate = (self._done - self._first) / max(wall - sum(v for k, v in self._all.items() if k != INPUT), 1e-9)
        return (
            f"{self._done - self._first} steps in {wall:.0f} s, {rate:.3g} steps/s; shares of the time that were not "
            f"steps: {parts or 'none'}; goodput {self._goodput.share:.2f}{times}"
        )


@dataclasses.dataclass
class Goodput:
    """Seconds of steps that count, as lines of a file that the next attempt goes on with.

    Attributes:
      path: of the file, {"began"} and then {"step", "productive_s", "wall_s", "attempt"}.
      writes: whether this process writes it.
      began: seconds since the epoch when the first attempt's process started.
      productive: seconds.
      attempt: number of this one, from 1.
    """

    path: Path
    writes: bool
    began: float
    productive: float = 0.0
    attempt: int = 1

    @classmethod
    def open(cls, path: Path, *, first: int, writes: bool) -> Goodput:
        """Goes on from what was noted up to step `first`, or begins."""
        lines = _lines(path)
        if not lines:
            found = cls(path, writes, psutil.Process().create_time())
            if writes:
                write_text(path, json.dumps({"began": found.began}) + "\n")
            found.add(first, 0.0)
            return found
        kept = [line for line in lines[1:] if line["step"] <= first]
        attempt = 1 + max((line["attempt"] for line in lines[1:]), default=0)
        found = cls(path, writes, lines[0]["began"], kept[-1]["productive_s"] if kept else 0.0, attempt)
        found.add(first, 0.0)
        return found

    @property
    def share(self) -> float:
        """Productive of all time."""
        return self.productive / max(time.time() - self.began, self.productive, 1e-9)

    def add(self, step: int, seconds: float) -> None:
        """So many more, up to a step."""
        self.productive += seconds
        line = {
            "step": step, "productive_s": round(self.productive, 3), "wall_s": round(time.time() - self.began, 3),
            "attempt": self.attempt,
        }  # fmt: skip
        if self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def goodput(folder: Path) -> dict[str, float]:
    """`goodput` and `attempts` of the run whose scratch this is, as last noted; empty if nothing was."""
    lines = _lines(folder / GOODPUT)[1:]
    if not lines:
        return {}
    last = lines[-1]
    return {
        "goodput": round(last["productive_s"] / max(last["wall_s"], last["productive_s"], 1e-9), 4),
        "attempts": last["attempt"],
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    """Of the file, up to one that a kill cut short; the next attempt's lines then stand behind it."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found if found and "began" in found[0] else []


def memory() -> dict[str, float]:
    """GiB of this process and, where the device tells, of the fullest of its devices, at most so far."""
    found = {"memory/host_gib": psutil.Process().memory_info().rss / _GIB}
    peaks = [stats["peak_bytes_in_use"] for device in jax.local_devices()
             if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats]  # fmt: skip
    return found | ({"memory/device_peak_gib": max(peaks) / _GIB} if peaks else {})


def _tokens(row: Mapping[str, float]) -> dict[str, float]:
    """Real and padded tokens of a step, if the row tells."""
    if "tokens/input" not in row:
        return {}
    return {
        "real": row["tokens/input"] + row["tokens/target"],
        "padded": row["tokens/input_places"] + row["tokens/target_places"],
    }
