"""`uio2` in processes of its own, and results that workers of one test session share.

A run of a real pipeline costs minutes, so a session makes each one once: the first worker that asks makes it under a
file lock, the others wait and read the account of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent
FIXTURE = REPOSITORY / "tests" / "fixtures" / "coco_tiny"
DIGITS = ("digits", f"--gin_file={FOLDER / 'tiny_digits.gin'}")
COCO = ("coco", f"--gin_file={FOLDER / 'tiny_coco.gin'}")
# Of the pipeline `digits`, in order.
DATA_STAGES = ("raw", "build-coco", "build-refcoco", "build-audio", "tokenizer", "register")
STAGES = (*DATA_STAGES, "vision-tower", "train", "predict", "score", "report", "promote")
SETTINGS = ("UIO2_", "MLFLOW_", "PREFECT_")  # of the user's; a test has its own


@dataclass(frozen=True)
class Done:
    """What a finished command left."""

    store: str
    status: int
    stdout: str
    stderr: str
    seconds: float

    def json(self) -> dict:
        """The JSON document on stdout."""
        return json.loads(self.stdout)


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command: none of the user's settings, and compiled modules kept."""
    values = {key: value for key, value in os.environ.items() if not key.startswith(SETTINGS)}
    values.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**values, "PYTHONPATH": str(REPOSITORY), **(settings or {})}


class Commands:
    """Starts `uio2` against stores below one folder."""

    def __init__(self, root: Path):
        self.root = root
        self._started: list[subprocess.Popen] = []

    def start(self, *arguments: str, store: Path, settings: Mapping[str, str] | None = None) -> subprocess.Popen:
        """A running command; `end` kills what is left of it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "uio2", *arguments, "--store", str(store)],
            cwd=REPOSITORY,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(
        self, *arguments: str, store: Path, settings: Mapping[str, str] | None = None, timeout: float = 900
    ) -> Done:
        """Runs a command to its end."""
        began = time.monotonic()
        process = self.start(*arguments, store=store, settings=settings)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        finally:
            process.kill()  # where the wait was cut short; its stages die with it
        seconds = round(time.monotonic() - began, 1)
        return Done(str(store), process.returncode, stdout, stderr, seconds)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The JSON value called `name` of this session, made by whoever asks first, as the others read it."""
        account = self.root / f"{name}.json"
        with open(self.root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not account.exists():
                temporary = account.with_suffix(".tmp")
                temporary.write_text(json.dumps(make()))
                temporary.replace(account)
        return json.loads(account.read_text())

    def end(self) -> None:
        """Kills the commands that still run; their stages die with them."""
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.communicate()


@dataclass(frozen=True)
class Child:
    """A running stage.

    Attributes:
      process: its process.
      stage: its name.
      attempt, work: folders of its output to be, and of its scratch.
    """

    process: psutil.Process
    stage: str
    attempt: Path
    work: Path


def child_of(runner: subprocess.Popen) -> Child | None:
    """The stage process a runner has now; None between stages, and where it ends while it is looked at."""
    with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
        for process in psutil.Process(runner.pid).children():
            command = [] if process.status() == psutil.STATUS_ZOMBIE else process.cmdline()
            if "uio2.cli.child" in command:
                job = json.loads(Path(command[-1]).read_text())
                return Child(process, job["name"].partition("/")[2], Path(job["attempt"]), Path(job["work"]))
    return None
