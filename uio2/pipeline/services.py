"""Local services: the MLflow and Prefect pages and the worker of deployments, on 127.0.0.1, state in the store.

A started service is noted in `services/<name>.json` with its process id and the time that process began, so that
stopping never hits a stranger that got the same id later.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from uio2.pipeline.guard import __name__ as guard_module
from uio2.pipeline.mlflow_database import database_uri
from uio2.pipeline.process import PACKAGE_ROOT
from uio2.pipeline.stage import StageError
from uio2.pipeline.store import Store, write_json
from uio2.pipeline.tracking import tracking_uri

HOST = "127.0.0.1"
PORTS = {"mlflow": 5000, "prefect": 4200, "worker": 4201}  # tried first; any free one otherwise
HEALTH = {"mlflow": "/health", "prefect": "/api/health", "worker": "/health"}
PAGES = ("mlflow", "prefect")
NAMES = ("worker", *PAGES)  # in the order in which they are stopped
POOL = "uio2"


@dataclasses.dataclass(frozen=True)
class Service:
    """A running server.

    Attributes:
      name: "mlflow", "prefect" or "worker".
      pid, began: process id and its start time (seconds since the epoch, as psutil gives it).
      port: on 127.0.0.1.
      log: what it prints.
    """

    name: str
    pid: int
    began: float
    port: int
    log: str

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def alive(self) -> bool:
        """Whether that very process still runs."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.began) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def prefect_settings(store: Store, *, api_url: str = "") -> dict[str, str]:
    """Environment of Prefect: state in the store, no telemetry, patience, nothing printed."""
    settings = {
        "PREFECT_HOME": str(store.folder("prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
    }
    return settings | ({"PREFECT_API_URL": api_url} if api_url else {})


def running(store: Store, name: str) -> Service | None:
    """The noted service if its process is alive."""
    service = _noted(store, name)
    return service if service and service.alive() else None


def _noted(store: Store, name: str) -> Service | None:
    try:
        return Service(**json.loads((store.root / "services" / f"{name}.json").read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None


def start(store: Store, name: str) -> Service:
    """Starts a service that stays, or returns the running one. Not yet `ready`."""
    found = running(store, name)
    if found:
        return found
    # Where it was when it died, so that those who talk to it find it again.
    noted = _noted(store, name)
    port = free_port(noted.port if noted else PORTS[name])
    service, _ = _launch(store, name, command=_command(store, name, port), port=port)
    write_json(store.folder("services") / f"{name}.json", dataclasses.asdict(service))
    return service


def start_private_prefect(store: Store) -> tuple[Service, subprocess.Popen]:
    """A Prefect server without pages that ends with this process."""
    port = free_port(0)
    guard = [sys.executable, "-m", guard_module, str(os.getpid())]
    return _launch(store, "prefect", command=[*guard, *_command(store, "prefect", port)], port=port, pages=False)


def stop(store: Store, name: str) -> Service | None:
    """Stops a service that `start` started, and its descendants; returns it, or None if it was not running."""
    import psutil

    service = running(store, name)
    if service:
        process = psutil.Process(service.pid)
        family = [*process.children(recursive=True), process]
        for member in family:
            with_gone(member.terminate)
        _, alive = psutil.wait_procs(family, timeout=8)
        for member in alive:
            with_gone(member.kill)
    (store.root / "services" / f"{name}.json").unlink(missing_ok=True)
    return service


def with_gone(action) -> None:
    """Calls the action; a process that ended meanwhile is what was wanted."""
    import psutil

    try:
        action()
    except psutil.NoSuchProcess:
        return


def wait_ready(service: Service, *, timeout: float = 120.0) -> None:
    """Returns when the service answers; StageError with the end of its log if it does not."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if healthy(service):
            return
        if not service.alive():
            break
        time.sleep(0.2)
    lines = Path(service.log).read_text(errors="replace").splitlines()[-10:]
    raise StageError(f"{service.name} did not start on {service.url}; its log {service.log} ends:\n" + "\n".join(lines))


def healthy(service: Service) -> bool:
    """Whether the service answers with status 200."""
    try:
        with urllib.request.urlopen(service.url + HEALTH[service.name], timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def free_port(preferred: int) -> int:
    """The preferred port if it is free, any free one otherwise."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port just left counts as taken
            try:
                probe.bind((HOST, port))
                return probe.getsockname()[1]
            except OSError:
                continue
    raise StageError(f"no free port on {HOST}")


def _command(store: Store, name: str, port: int) -> list[str]:
    if name == "prefect":
        app = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "error"]
        return [sys.executable, "-m", "uvicorn", *app, "--host", HOST, "--port", str(port)]
    if name == "worker":
        pool = ["--pool", POOL, "--type", "process", "--name", f"{POOL}-here"]
        return [sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", *pool, "--with-healthcheck"]
    uri = tracking_uri(store)
    if not uri:
        raise StageError("UIO2_MLFLOW=off: tracking is turned off, so there is no MLflow page; unset it")
    location = store.folder("mlflow-artifacts").as_uri()
    options = ["--backend-store-uri", uri, "--default-artifact-root", location, "--workers", "1"]
    server = [sys.executable, "-m", "mlflow", "server", *options, "--host", HOST, "--port", str(port)]
    if uri != database_uri(store):
        return server
    return [sys.executable, "-m", "uio2.pipeline.mlflow_database", str(store.root), *server]


def _launch(
    store: Store, name: str, *, command: list[str], port: int, pages: bool = True
) -> tuple[Service, subprocess.Popen]:
    import psutil

    log = store.folder("logs") / (f"{name}.log" if pages else f"{name}-private.log")
    environment = {
        **os.environ,
        **prefect_settings(store),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a pool of helper processes nothing here uses
        "PREFECT_UI_ENABLED": "1" if pages else "0",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")])),
    }
    environment.pop("PREFECT_API_URL", None)
    if name == "worker":
        environment |= _worker_settings(store, port)
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    began = psutil.Process(process.pid).create_time()
    return Service(name=name, pid=process.pid, began=began, port=port, log=str(log)), process


def _worker_settings(store: Store, port: int) -> dict[str, str]:
    server = running(store, "prefect")
    if server is None:
        raise StageError("the worker needs the Prefect server of `uio2 up`, which is not running")
    return {
        "PREFECT_API_URL": f"{server.url}/api",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_WORKER_WEBSERVER_HOST": HOST,
        "PREFECT_WORKER_WEBSERVER_PORT": str(port),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "UIO2_HOME": str(store.root),  # runs find the store wherever they start
    }
