"""What `uio2 up` starts, for tests: server, worker, MLflow and the real `prefect` command against them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.flows.commands import REPOSITORY, Commands, environment

SERVICES = ("mlflow", "prefect", "worker")
TOYS = "tests.pipeline.toy_flow"
PREFECT = Path(sys.executable).with_name("prefect")


class Up:
    """What `uio2 up` started, with a log of the toy stages."""

    def __init__(self, commands: Commands, root: Path):
        self.commands = commands
        self.store = root / "store"
        self.log = root / "stages.log"
        self.settings = {"UIO2_TEST_LOG": str(self.log), "UIO2_MLFLOW": ""}
        self.found: dict[str, Any] = {}
        self.up()

    def up(self) -> None:
        done = self.commands.run("up", "--json", store=self.store, settings=self.settings)
        assert done.status == 0, done.stderr
        self.found = done.json()

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The real command line; it finds the server through the store alone."""
        values = environment({"UIO2_HOME": str(self.store)})
        return subprocess.run(
            [PREFECT, *arguments], cwd=REPOSITORY, env=values, capture_output=True, text=True, timeout=120
        )

    def start(self, *bindings: str) -> str:
        """Runs the toy pipeline through its deployment's bare name; the id of the flow run."""
        return self.run("pipeline", name=TOYS, gin=json.dumps(bindings))

    def run(self, deployment: str, **parameters: str) -> str:
        """Starts a deployment as a user types it; the id of the flow run."""
        given = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
        done = self.prefect("deployment", "run", deployment, *given)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split("UUID:")[1].split()[0]

    def api(self, path: str, body: Any = None, *, method: str = "") -> Any:
        """The server's answer; a GET without a body, a POST with one, unless `method` says else."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.found["prefect"]["url"] + "/api" + path, data=data, headers={"Content-Type": "application/json"},
            method=method or ("GET" if data is None else "POST"),
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:  # its database is busy: Prefect's client waits too
                    raise
            time.sleep(0.5)

    def state(self, run: str) -> str:
        return self.api(f"/flow_runs/{run}")["state"]["name"]

    def wait_state(self, run: str, *names: str, seconds: float = 100) -> None:
        wait_for(lambda: self.state(run) in names, f"{run} is {names}", seconds=seconds)

    def events(self) -> list[str]:
        """What the stages noted: start and end lines."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def stages(self) -> list[psutil.Process]:
        """Stage children that run in this store."""
        return [p for p in psutil.process_iter() if _is_child_of(p, self.store)]


def _is_child_of(process: psutil.Process, store: Path) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        line = process.cmdline()
        return "uio2.cli.child" in line and any(str(store) in word for word in line)
    return False


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {what}")
