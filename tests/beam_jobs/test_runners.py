"""Equal inputs and settings give equal bytes: in any order, with any number of workers, on every local runner."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_jobs import coco, dtmf, instructions, speech
from beam_jobs.build import build_as
from beam_jobs.specs import BUILD_COCO, BUILD_INSTRUCTIONS, BUILD_SPEECH, CocoSpec, InstructionsSpec, SpeechSpec
from tests.beam_jobs.conftest import FIXTURE, Built, lines, pointing, run_stage
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import StageContext, StageType

REPOSITORY = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Case:
    """A dataset: of annotation files that are joined, of a table, of clips."""

    type: StageType
    spec: Any
    module: Any
    raw: Artifact
    built: Built


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Each built in memory by one worker."""
    folder = tmp_path_factory.mktemp("cases")
    rows = [{"instruction": f"Say {n}.", "input": "", "output": str(n)} for n in range(50)]
    text = lines(folder / "alpaca.jsonl", rows)
    for n in range(12):
        sound = dtmf.dial(np.random.default_rng(n), str(n % 10))
        (folder / "audio").mkdir(exist_ok=True)
        (folder / "audio" / f"{n}.wav").write_bytes(dtmf.wav_bytes(sound))
    lines(folder / "audio" / "all.jsonl", [{"file": f"{n}.wav", "text": str(n)} for n in range(12)])
    roots = {role: FIXTURE / role for role in ("images", "annotations", "vqa")}
    made = {
        "coco": (BUILD_COCO, CocoSpec(num_shards=3), coco, roots),
        "table": (BUILD_INSTRUCTIONS, InstructionsSpec(num_shards=3), instructions, {"text": text}),
        "clips": (BUILD_SPEECH, SpeechSpec(num_shards=2, validation_fraction=0.3), speech, {"audio": folder / "audio"}),
    }
    found = {}
    for name, (type_, spec, module, places) in made.items():
        raw = pointing(folder / f"raw-{name}", **places)
        found[name] = Case(type_, spec, module, raw, run_stage(type_, spec, folder / name, raw=raw))
    return found


@dataclasses.dataclass(frozen=True)
class Backwards:
    """A job whose sources, and the rows of each, come in the opposite order."""

    job: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "job":
            raise AttributeError(name)
        return getattr(self.job, name)

    def sources(self) -> Sequence[Any]:
        return list(reversed(self.job.sources()))

    def read(self, source: Any) -> Iterator[Any]:
        return reversed(list(self.job.read(source)))


@pytest.mark.parametrize(("name", "workers"), [("coco", 2), ("coco", 4), ("table", 4), ("clips", 2)])
def test_same_bytes_backwards_and_with_more_workers(cases, name: str, workers: int, tmp_path: Path, monkeypatch):
    from beam_jobs.sources import roots

    case = cases[name]
    monkeypatch.setenv("UIO2_BEAM_OPTIONS", f"--direct_num_workers={workers}")
    job = Backwards(case.module.job_of(case.spec, roots(case.raw)))
    (tmp_path / "out").mkdir()
    context = StageContext({}, tmp_path / "out", tmp_path / "work", lambda *_: None, lambda *_: None)
    stats = build_as(case.spec, job, description=case.module.DESCRIPTION, context=context)
    again = Built(tmp_path / "out", tmp_path / "work", stats)
    assert again.shards() == case.built.shards()


@pytest.fixture(scope="module")
def job_service() -> Iterator[str]:
    """Beam's job service, and a pool that starts a process per worker: flags that run pipelines there."""
    ports = [_free_port() for _ in range(2)]
    commands = [
        ["apache_beam.runners.portability.local_job_service_main", "--port", str(ports[0])],
        ["apache_beam.runners.worker.worker_pool_main", "--service_port", str(ports[1])],
    ]
    # The pool starts workers as `python`.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    started = [subprocess.Popen([sys.executable, "-m", *c], env=environment) for c in commands]
    try:
        for port in ports:
            _await(port)
        yield (
            f"--runner=PortableRunner --job_endpoint=localhost:{ports[0]} "
            f"--environment_type=EXTERNAL --environment_config=localhost:{ports[1]}"
        )
    finally:
        for process in started:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def _await(port: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing answers on port {port}")


@pytest.mark.long
@pytest.mark.parametrize("name", ["coco", "table", "clips"])
def test_same_bytes_in_worker_processes(cases, name: str, tmp_path: Path, monkeypatch):
    case = cases[name]
    monkeypatch.setenv("UIO2_BEAM_OPTIONS", "--direct_running_mode=multi_processing --direct_num_workers=2")
    assert run_stage(case.type, case.spec, tmp_path, raw=case.raw).shards() == case.built.shards()


@pytest.mark.long
@pytest.mark.parametrize("name", ["coco", "table", "clips"])
def test_same_bytes_on_the_portable_job_service(cases, name: str, job_service: str, tmp_path: Path, monkeypatch):
    case = cases[name]
    monkeypatch.setenv("UIO2_BEAM_OPTIONS", job_service)
    assert run_stage(case.type, case.spec, tmp_path, raw=case.raw).shards() == case.built.shards()
