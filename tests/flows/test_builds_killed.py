"""kill -9 over dataset builds, the whole process group: nothing half made is visible, the end has the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from beam_jobs import dtmf
from beam_jobs.builders import BUILDERS
from tests.beam_jobs.conftest import pointing, run_stage
from tests.flows.commands import FIXTURE, Child, Commands, child_of
from tests.pipeline.conftest import published
from uio2.pipeline.artifact import digest_directory
from uio2.pipeline.store import Store, read_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 20
PATIENCE_S = 120


@dataclasses.dataclass(frozen=True)
class Moment:
    """Something that is seen of a running build, and the seconds within which it is killed then."""

    seen: Callable[[Child], bool]
    within: float


MOMENTS = (
    Moment(lambda child: True, 0.8),
    Moment(lambda child: True, 1.6),
    Moment(lambda child: True, 2.4),
    Moment(lambda child: any((child.work / "shards").glob("*")), 0.1),
    Moment(lambda child: (child.work / "written.jsonl").exists(), 0.2),
    Moment(lambda child: (child.work / "read_back.jsonl").exists(), 0.2),
    Moment(lambda child: (child.attempt / "out" / "accounting.json").exists(), 0.1),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A dataset: its name in `BUILDERS`, its sources by role."""

    name: str
    sources: Mapping[str, Path]


class Battered:
    """One dataset built again and again in one store; `hits` counts the kills that fell into a running command."""

    def __init__(self, case: Case, root: Path, commands: Commands, *, seed: int):
        self.hits = 0
        self.out = root / "out" / "here"
        self.store = Store(root / "store")
        self._case = case
        self._commands = commands
        self._draw = random.Random(seed)

    def start(self) -> subprocess.Popen:
        sources = [part for role, path in self._case.sources.items() for part in (f"--{role}", str(path))]
        command = ["build", self._case.name, *sources, "--num_shards", "3", "--out", str(self.out), "--json"]
        return self._commands.start(*command, store=self.store.root, settings={"UIO2_MLFLOW": "off"})

    def kill_at(self, seen: Callable[[subprocess.Popen], bool], within: float) -> None:
        """Starts the build and kills all of it some time after `seen`."""
        runner = self.start()
        deadline = time.monotonic() + PATIENCE_S
        while runner.poll() is None and not seen(runner):
            assert time.monotonic() < deadline, "no sign of the moment"
            time.sleep(0.002)
        time.sleep(self._draw.uniform(0, within))
        self.hits += runner.poll() is None
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(runner.pid).children(recursive=True)
        own = os.getpgid(0)
        for process in family:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # One that has just begun, or asks git for the commit, is still in the group of these tests.
                group = os.getpgid(process.pid)
                os.kill(process.pid, signal.SIGKILL) if group == own else os.killpg(group, signal.SIGKILL)
        runner.send_signal(signal.SIGKILL)
        _, errors = runner.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
        assert "Traceback" not in errors
        self.check_visible()

    def kill_stage_at(self, moment: Moment) -> None:
        def seen(runner: subprocess.Popen) -> bool:
            child = child_of(runner)
            return child is not None and child.stage == f"build-{self._case.name}" and moment.seen(child)

        self.kill_at(seen, moment.within)

    def kill_once_published(self) -> None:
        """While the dataset is put at `out`."""
        pattern = f"artifacts/*/build-{self._case.name}/*/artifact.json"
        self.kill_at(lambda runner: any(self.store.root.glob(pattern)), 0.02)

    def check_visible(self) -> None:
        """All that is in the store or at `out` is whole."""
        published(self.store)
        if self.out.exists():
            record = read_record(self.out)
            assert record is not None
            assert digest_directory(self.out) == record["digest"]

    def finish(self) -> dict[str, Any]:
        """An undisturbed run to the end: its record, nothing beside it."""
        stdout, errors = self.start().communicate(timeout=200)
        assert stdout, errors
        self.check_visible()
        assert list(self.out.parent.iterdir()) == [self.out]
        for name in (".tmp", ".work"):
            assert list((self.store.root / name).iterdir()) == []
        record = read_record(self.out)
        assert record is not None
        return record


def cases(folder: Path) -> list[Case]:
    rows = [{"instruction": f"Say {n}.", "input": "", "output": str(n)} for n in range(60)]
    (folder / "alpaca.json").write_text(json.dumps(rows))
    clips = folder / "speech"
    clips.mkdir()
    for n in range(12):
        (clips / f"{n}.wav").write_bytes(dtmf.wav_bytes(dtmf.dial(np.random.default_rng(n), str(n % 10))))
    words = [json.dumps({"file": f"{n}.wav", "text": str(n)}) for n in range(12)]
    (clips / "train.jsonl").write_text("\n".join(words))
    return [
        Case("coco", {role: FIXTURE / role for role in ("images", "annotations", "vqa")}),
        Case("alpaca", {"text": folder / "alpaca.json"}),
        Case("speech", {"audio": clips}),
    ]


def batter(case: Case, root: Path, commands: Commands, *, seed: int) -> tuple[int, dict[str, Any]]:
    """How many kills hit, and the record of what was there in the end."""
    battered = Battered(case, root, commands, seed=seed)
    for moment in MOMENTS:
        battered.kill_stage_at(moment)
    battered.kill_once_published()
    return battered.hits, battered.finish()


def test_killed_builds_end_in_the_same_bytes(commands: Commands, tmp_path: Path):
    found: dict[str, tuple[int, dict[str, Any]]] = {}

    def work(seed: int, case: Case) -> None:
        found[case.name] = batter(case, tmp_path / f"battered-{case.name}", commands, seed=seed)

    numbered = list(enumerate(cases(tmp_path)))
    threads = [threading.Thread(target=work, args=pair) for pair in numbered]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(numbered), "a build failed; see the traceback of its thread"
    assert sum(hits for hits, _ in found.values()) >= KILLS
    for _, case in numbered:
        builder = BUILDERS[case.name]
        spec = dataclasses.replace(builder.type.spec(**builder.settings), num_shards=3)
        raw = pointing(tmp_path / f"raw-{case.name}", **case.sources)
        clean = run_stage(builder.type, spec, tmp_path / case.name, raw=raw)
        assert found[case.name][1]["digest"] == digest_directory(clean.out)
