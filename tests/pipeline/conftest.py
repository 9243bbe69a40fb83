"""Fixtures of the spine's tests: a store in a temporary folder, and pipelines of toy stages run in real processes."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.pipelines import build
from uio2.pipeline.artifact import digest_directory
from uio2.pipeline.console import Console
from uio2.pipeline.execution import Execution
from uio2.pipeline.runner import Runner
from uio2.pipeline.stage import Pipeline
from uio2.pipeline.store import Store, read_record

REPOSITORY = Path(__file__).resolve().parents[2]
TOYS = "tests.pipeline.toy_flow"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow unless a test asks for it; an execution log; nothing from the user's settings."""
    monkeypatch.setenv("UIO2_MLFLOW", "off")
    monkeypatch.setenv("UIO2_TEST_LOG", str(tmp_path / "executions.log"))
    monkeypatch.delenv("UIO2_HOME", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store").prepare()


@pytest.fixture
def toys() -> Callable[..., Pipeline]:
    """The toy pipeline with gin bindings."""

    def make(*bindings: str, **sources: str) -> Pipeline:
        return build(TOYS, bindings=bindings, sources=sources)

    return make


@pytest.fixture
def run(store: Store) -> Callable[[Pipeline], dict]:
    """Runs a pipeline in the store; returns the outcomes by stage."""

    def run_it(pipeline: Pipeline) -> dict:
        runner = Runner(store, pipeline=pipeline.name, console=Console(quiet=True))
        return Execution(pipeline, runner).run()

    return run_it


@pytest.fixture
def start_cli(store: Store) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `uio2` in a process of its own against the store."""
    started = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "uio2", *arguments, "--store", str(store.root)],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def executions(tmp_path: Path) -> Callable[[str], list[str]]:
    """Fingerprint keys of the executions that noted an event (`start`, `end`, `overlap`), in order."""

    def read(event: str) -> list[str]:
        log = tmp_path / "executions.log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [key for _, key, noted in lines if noted == event]

    return read


def published(store: Store) -> dict[str, str]:
    """name -> digest of what a reader sees, after checking that all of it is whole."""
    found: dict[str, str] = {}
    for path in (store.root / "artifacts").glob("*/*/*"):
        record = read_record(path)
        assert record is not None, f"{path} is visible without a record"
        assert digest_directory(path, volatile=record["volatile"]) == record["digest"], f"{path} is not whole"
        assert record["name"] not in found
        found[record["name"]] = record["digest"]
    return found


def stage_of(store: Store, key: str) -> str:
    """The stage name behind the key of an execution."""
    return next(record["name"] for record, _ in store.records() if record["fingerprint"].startswith(key))


def counts(keys: list[str], store: Store) -> dict[str, int]:
    """How often each stage executed."""
    return dict(collections.Counter(stage_of(store, key) for key in keys))


def load(text: str) -> dict:
    """JSON that a command printed."""
    return json.loads(text)
