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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, TextIO

from uio2.pipeline.job import EVENTS_VARIABLE

GRACE_S = 5.0  # between SIGTERM and SIGKILL
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


def run_child(
    job: Path,
    *,
    log: Path,
    cache: Path,
    keep: tuple[int, ...],
    on_line: Callable[[str], None],
    on_progress: Callable[[int, int, str], None],
    on_wait: Callable[[], None],
) -> Ended:
    """Runs `python -m uio2.cli.child job` to its end.

    `cache` is for compiled programs; `keep` are descriptors the child inherits; `on_wait` is called five times a second
    and may raise, which ends the child's group (SIGTERM, then SIGKILL) before the exception goes on.
    """
    reader, writer = os.pipe()
    environment = {**child_environment(job.parent / "tmp", cache=cache), EVENTS_VARIABLE: str(writer)}
    child = subprocess.Popen(
        [sys.executable, "-m", "uio2.cli.child", str(job)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(*keep, writer),
        start_new_session=True,
    )
    os.close(writer)
    tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
    assert child.stdout is not None
    with open(log, "a", encoding="utf-8") as log_file:
        threads = [
            threading.Thread(target=_read_lines, args=(child.stdout, log_file, tail, on_line), daemon=True),
            threading.Thread(target=_read_events, args=(os.fdopen(reader), on_progress), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            while child.poll() is None:
                on_wait()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=0.2)
        finally:
            end_group(child)
            for thread in threads:
                thread.join(timeout=5)
    return Ended(child.returncode, tuple(tail))


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


def _read_lines(stream: BinaryIO, log: TextIO, tail: collections.deque[str], on_line: Callable[[str], None]) -> None:
    for raw in stream:
        text = raw.decode(errors="replace").rstrip("\n")
        line = text.rsplit("\r", 1)[-1].rstrip()  # of a bar that redraws itself, the last state
        if line:
            with contextlib.suppress(ValueError):  # the log was closed: a stray descendant still printed
                log.write(line + "\n")
                log.flush()
            if not NOISE.match(line):
                tail.append(line)
                on_line(line)


def _read_events(stream: TextIO, on_progress: Callable[[int, int, str], None]) -> None:
    with stream:
        for line in stream:
            with contextlib.suppress(ValueError):  # a line cut by a kill
                event: Mapping = json.loads(line)
                on_progress(event["done"], event["total"], event["text"])
