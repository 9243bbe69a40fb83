"""Running a child process that cannot outlive its runner, with its output and progress streamed.

The child leads its own process group (Ctrl-C in the terminal reaches only the runner, which ends the whole group),
asks the kernel to be killed when the runner's thread dies, and inherits the lease so that the lease is free only when
both are dead.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from uio2.pipeline.job import EVENTS_VARIABLE

GRACE_S = 5.0  # between SIGTERM and SIGKILL
FOLLOW_S = 90.0  # processes that train as one notice within a minute that one of them is gone
TAIL_LINES = 15
# Lines of TensorFlow that say nothing about the run; they are kept in the log and not shown.
NOISE = re.compile(
    r"[IW]0000 |WARNING: All log messages before absl::InitializeLog|E0000 .*(failed call to cuInit|oneDNN supports)"
    r"|normalizer.cc.*precompiled_charsmap is empty|WARNING:absl:.*Skipping merge of OCDBT"
    r"|WARNING:absl:`FeatureConnector.dtype` is deprecated"
)
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class Cancelled(BaseException):
    """The run was asked to stop; not an `Exception`, so that nothing takes it for a failed stage."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status (negative: the signal) and the last lines it printed."""

    status: int
    tail: tuple[str, ...]


def child_environment(tmp: Path, *, cache: Path) -> dict[str, str]:
    """The environment of a stage: quiet libraries, fixed hash seed, temporary files inside the attempt.

    Args:
      tmp: for temporary files.
      cache: where JAX keeps compiled programs, for the next attempt and other runs.
    """
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "GRPC_VERBOSITY": "ERROR",
        "NO_GCE_CHECK": "true",  # TensorFlow and gcsfs otherwise look for a metadata server
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Huge pages for large arrays: a small CPU train step took 227 ms instead of 345, the rest being page faults.
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        **os.environ,
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(tmp),
    }
    paths = [str(PACKAGE_ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return environment


@dataclasses.dataclass(frozen=True)
class Process:
    """A job to run as `python -m uio2.cli.child`, with variables of its own."""

    job: Path
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def run_processes(
    processes: Sequence[Process],
    *,
    log: Path,
    cache: Path,
    keep: tuple[int, ...],
    on_line: Callable[[str], None],
    on_progress: Callable[[int, int, str], None],
    on_wait: Callable[[], None],
    follow_s: float = FOLLOW_S,
) -> Ended:
    """Runs the processes to their ends; progress is that of the first.

    `cache` is for compiled programs; `keep` are descriptors they inherit; `on_wait` is called five times a second and
    may raise, which ends their groups (SIGTERM, then SIGKILL) before the exception goes on. When one fails, the others
    have `follow_s` to notice. The status is that of the first to fail.
    """
    reader, writer = os.pipe()
    children: list[subprocess.Popen] = []
    tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
    threads = [threading.Thread(target=_read_events, args=(os.fdopen(reader), on_progress), daemon=True)]
    with open(log, "a", encoding="utf-8") as log_file:
        try:
            for number, process in enumerate(processes):
                child = _start(process, cache=cache, keep=keep, events=writer if number == 0 else None)
                children.append(child)
                label = f"[{number}] " if number else ""
                threads.append(
                    threading.Thread(
                        target=_read_lines, args=(child.stdout, log_file, tail, on_line, label), daemon=True
                    )
                )
            os.close(writer)
            for thread in threads:
                thread.start()
            failed = _wait(children, on_wait, follow_s)
        finally:
            for child in children:
                end_group(child)
            for thread in threads:
                if thread.ident:
                    thread.join(timeout=5)
    return Ended(failed, tuple(tail))


def _start(process: Process, *, cache: Path, keep: tuple[int, ...], events: int | None) -> subprocess.Popen:
    environment = {**child_environment(process.job.parent / "tmp", cache=cache), **process.environment}
    if events is not None:
        environment[EVENTS_VARIABLE] = str(events)
    return subprocess.Popen(
        [sys.executable, "-m", "uio2.cli.child", str(process.job)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(*keep, *([] if events is None else [events])),
        start_new_session=True,
    )


def _wait(children: Sequence[subprocess.Popen], on_wait: Callable[[], None], follow_s: float) -> int:
    """Until all have ended, or one has failed and the others had time to follow; the first bad status, or 0."""
    deadline, failed = float("inf"), 0
    while running := [child for child in children if child.poll() is None]:
        on_wait()
        if not failed and (failed := _first_failure(children)):
            deadline = time.monotonic() + follow_s
        if time.monotonic() > deadline:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            running[0].wait(timeout=0.2)
    return failed or _first_failure(children)


def _first_failure(children: Sequence[subprocess.Popen]) -> int:
    return next((child.returncode for child in children if child.returncode), 0)


def end_group(child: subprocess.Popen) -> None:
    """Ends a group leader, gently first, and whatever is left of its group."""
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _read_lines(
    stream: BinaryIO, log: TextIO, tail: collections.deque[str], on_line: Callable[[str], None], label: str
) -> None:
    for raw in stream:
        text = raw.decode(errors="replace").rstrip("\n")
        line = text.rsplit("\r", 1)[-1].rstrip()  # of a bar that redraws itself, the last state
        if line:
            quiet = NOISE.match(line)
            line = label + line
            with contextlib.suppress(ValueError):  # the log was closed: a stray descendant still printed
                log.write(line + "\n")
                log.flush()
            if not quiet:
                tail.append(line)
                on_line(line)


def _read_events(stream: TextIO, on_progress: Callable[[int, int, str], None]) -> None:
    with stream:
        for line in stream:
            with contextlib.suppress(ValueError):  # a line cut by a kill
                event: Mapping = json.loads(line)
                on_progress(event["done"], event["total"], event["text"])
