"""The interface of launchers, and the launchers of this machine.

Several processes get the same job, each in a folder of its own; what tells them apart is the environment that
`uio2.train.execution` reads. The first one's output, result and progress are the stage's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from uio2.pipeline.job import METRICS, Result
from uio2.pipeline.process import FOLLOW_S, Ended, Process, run_processes
from uio2.pipeline.stage import UsageError

COORDINATOR, NUM_PROCESSES, PROCESS_ID = "UIO2_COORDINATOR", "UIO2_NUM_PROCESSES", "UIO2_PROCESS_ID"


@dataclasses.dataclass(frozen=True)
class Launch:
    """One execution of a stage, as the runner hands it over.

    Attributes:
      stage: its name, for messages and names of things.
      job: the file `job.json` in the attempt's folder.
      log: file that everything printed is appended to.
      cache: where JAX keeps compiled programs.
      keep: descriptors that child processes inherit (the lease).
      on_line, on_progress: called for what is printed and reported.
      on_wait: called several times a second; may raise, which ends the execution before the exception goes on.
    """

    stage: str
    job: Path
    log: Path
    cache: Path
    keep: tuple[int, ...]
    on_line: Callable[[str], None]
    on_progress: Callable[[int, int, str], None]
    on_wait: Callable[[], None]


class Launcher(Protocol):
    """Runs a job to its end, somewhere."""

    def run(self, launch: Launch) -> Ended:
        """Returns how it ended; the output is in the attempt's folder then, wherever it ran."""
        ...


@dataclasses.dataclass(frozen=True)
class Local:
    """One child process."""

    def run(self, launch: Launch) -> Ended:
        return _run(launch, [Process(launch.job)])


@dataclasses.dataclass(frozen=True)
class LocalProcesses:
    """Several child processes that train as one, over a coordinator on this machine.

    For CPUs, and for trying out what a pod does: on a machine with several accelerators one process drives them all.

    Attributes:
      count: how many.
      follow_s: how long the others have to end by themselves when one fails.
    """

    count: int
    follow_s: float = FOLLOW_S

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"--processes {self.count}: expected 1 or more")

    def run(self, launch: Launch) -> Ended:
        common = {COORDINATOR: f"127.0.0.1:{free_port()}", NUM_PROCESSES: str(self.count)}
        jobs = process_jobs(launch.job, self.count)
        processes = [Process(job, {**common, PROCESS_ID: str(n)}) for n, job in enumerate(jobs)]
        return with_errors(_run(launch, processes, follow_s=self.follow_s), launch.job)


def with_errors(ended: Ended, job: Path) -> Ended:
    """What ended badly, with what processes other than the first said of it."""
    found = []
    for folder in sorted(job.parent.glob("process-*")) if ended.status else ():
        result = Result.read(folder)
        if result is not None and result.error:
            found.append(f"{folder.name}: {result.error}")
    return dataclasses.replace(ended, tail=(*ended.tail, *found))


def _run(launch: Launch, processes: list[Process], *, follow_s: float = FOLLOW_S) -> Ended:
    return run_processes(
        processes, log=launch.log, cache=launch.cache, keep=launch.keep, on_line=launch.on_line,
        on_progress=launch.on_progress, on_wait=launch.on_wait, follow_s=follow_s,
    )  # fmt: skip


def process_jobs(job: Path, count: int, *, parent: int | None = None) -> list[Path]:
    """The job files of `count` processes, `process-<n>/job.json` beside the job.

    Process 0 works in the attempt's folder, the others in folders of their own, which nobody reads; scratch is shared.

    Args:
      job: the runner's job file.
      count: how many.
      parent: process id that they end with; None for the job's own, 0 for none.
    """
    values = json.loads(job.read_text())
    if parent is not None:
        values["parent"] = parent
    jobs = []
    for number in range(count):
        folder = job.parent / f"process-{number}"
        (folder / "out").mkdir(parents=True, exist_ok=True)
        (folder / "tmp").mkdir(exist_ok=True)
        own = (
            values if number == 0 else {**values, "attempt": str(folder), "metrics": str(folder / f"process{METRICS}")}
        )
        path = folder / "job.json"
        path.write_text(json.dumps(own))
        jobs.append(path)
    return jobs


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
