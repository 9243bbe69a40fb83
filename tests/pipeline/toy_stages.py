"""Stage types for the tests of the spine: real processes, tiny files, no heavy import.

Each execution appends `start` and `end` lines to the file named by UIO2_TEST_LOG, so that a test can see what ran.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import random
import time

from uio2.pipeline.stage import StageContext, StageError, StageType


@dataclasses.dataclass(frozen=True)
class ToySpec:
    """Settings of every toy stage."""

    text: str = "x"
    files: int = 3
    sleep: float = 0.0
    fail: str = ""
    factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class NeedySpec:
    """A spec with a setting the user must give."""

    path: str
    size: tuple[int, int] = (2, 3)
    inner: ToySpec = ToySpec()


def note(key: str, event: str) -> None:
    """Appends a line; one write, so lines of several processes do not mix."""
    log = os.environ.get("UIO2_TEST_LOG")
    if log:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{os.getpid()} {key} {event}\n".encode())
        os.close(descriptor)


def note_start(key: str) -> None:
    """Notes `start`, or `overlap` if another process runs the same stage at this moment."""
    log = os.environ.get("UIO2_TEST_LOG")
    if log:
        held = os.open(f"{log}.{key}", os.O_RDWR | os.O_CREAT)  # never closed: held until this process ends
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(key, "overlap")
    note(key, "start")


def run(spec: ToySpec, context: StageContext) -> dict:
    """Writes files that depend on the spec and the inputs alone, a line of work at a time, resuming what it finds."""
    key = context.out.parent.name[:16]
    note_start(key)
    if spec.fail == "stage":
        raise StageError("key 'a' is 3, expected a word; write a word")
    if spec.fail == "bug":
        raise KeyError("nothing here")
    if spec.fail == "exit":
        print("about to leave", flush=True)
        os._exit(7)
    seed = spec.text + "".join(f"{key}={artifact.digest}" for key, artifact in sorted(context.inputs.items()))
    for index in range(spec.files):
        kept = context.work / f"{index}.txt"
        if not kept.exists():
            time.sleep(spec.sleep / spec.files)
            temporary = context.work / ".part"
            temporary.write_text(hashlib.sha256(f"{seed}{index}".encode()).hexdigest() * 50)
            temporary.rename(kept)
        context.progress(index + 1, spec.files, "files")
        context.metric(index, {"loss": 1.0 / (index + 1)})
        (context.out / f"part{index}").mkdir()
        (context.out / f"part{index}" / "data.txt").write_text(kept.read_text())
    (context.out / "when.log").write_text(str(random.SystemRandom().random()))
    note(key, "end")
    return {"files": spec.files, "nested": {"mean": 0.5}}


def run_score(spec: ToySpec, context: StageContext) -> dict:
    """Like a score stage: leaves `metrics.json`."""
    stats = run(spec, context)
    row = '{"toy/acc": {"value": 0.75, "low": 0.7, "high": 0.8, "baseline": 0.25, "n": 40}}'
    (context.out / "metrics.json").write_text(row)
    return stats


TOY = StageType(name="toy", kind="raw", spec=ToySpec, run="tests.pipeline.toy_stages:run", volatile=("*.log",))
SCORE = StageType(
    name="score", kind="report", spec=ToySpec, run="tests.pipeline.toy_stages:run_score", volatile=("*.log",)
)
MODEL = StageType(
    name="model",
    kind="model",
    spec=ToySpec,
    run="tests.pipeline.toy_stages:run",
    volatile=("*.log",),
    registers_model=True,
)
