"""Fixtures of the end-to-end tests: the command line in processes of its own, and the one tiny run of the digits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from tests.flows.commands import DIGITS, Commands, Done
from tests.flows.up import SERVICES, Up
from uio2.pipeline.store import Store


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def commands(shared: Path) -> Iterator[Commands]:
    """Starts `uio2`; what still runs at the end is killed."""
    started = Commands(shared)
    yield started
    started.end()


@pytest.fixture(scope="session")
def tiny_run(commands: Commands) -> Done:
    """One undisturbed run of the digits, as a Prefect flow."""

    def make() -> dict:
        return asdict(commands.run("run", *DIGITS, "--strict", "--json", store=commands.root / "digits"))

    done = Done(**commands.once("digits", make))  # a failure is kept as well, not tried again by every test
    assert done.status == 0, done.stderr
    return done


@pytest.fixture
def tiny_store(tiny_run: Done) -> Store:
    """The store of `tiny_run`; tests only read it."""
    return Store(tiny_run.store)


@pytest.fixture(scope="module")
def up(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    started = Up(commands, tmp_path_factory.mktemp("up"))
    yield started
    down = commands.run("down", store=started.store, settings=started.settings)
    assert [line.split()[1] for line in down.stdout.splitlines()] == ["worker", "mlflow", "prefect"]
    assert not any(psutil.pid_exists(started.found[name]["pid"]) for name in SERVICES)
