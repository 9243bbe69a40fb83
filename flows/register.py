"""Puts the deployments of `prefect.yaml` on the Prefect server of `uio2 up`, and the work pool they run in.

Also closes the flow runs of a worker that was killed: Prefect would show them as running for ever, and they would hold
the places of deployments with a concurrency limit.
"""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import yaml

from uio2.pipeline import services
from uio2.pipeline.process import PACKAGE_ROOT
from uio2.pipeline.stage import StageError
from uio2.pipeline.store import Store

FILE = PACKAGE_ROOT / "prefect.yaml"


def deploy(store: Store) -> list[str]:
    """Makes the pool and registers every deployment again; returns their names.

    Raises:
      StageError: Prefect refuses, with what it said.
    """
    server = services.running(store, "prefect")
    if server is None:
        raise StageError("deployments need the Prefect server of `uio2 up`, which is not running")
    settings = services.prefect_settings(store, api_url=f"{server.url}/api")
    os.environ.update(settings)  # before Prefect is imported
    _make_pool()
    _close_dead_runs()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)]
    ended = subprocess.run(
        command, cwd=PACKAGE_ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    if ended.returncode:
        tail = "\n".join((ended.stdout + ended.stderr).splitlines()[-15:])
        raise StageError(f"prefect deploy failed for {FILE}:\n{tail}")
    return names()


def names() -> list[str]:
    """Deployments of the file, in its order."""
    return [item["name"] for item in yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]]


def _make_pool() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(
                WorkPoolCreate(name=services.POOL, type="process", base_job_template=template), overwrite=False
            )
        except ObjectAlreadyExists:
            return


def _close_dead_runs() -> None:
    """Marks runs of the pool as crashed whose process on this machine is gone."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    open_states = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=open_states)),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[services.POOL])),
        )
        for run in runs:
            if run.infrastructure_pid and not _alive(run.infrastructure_pid):
                client.set_flow_run_state(run.id, Crashed(message="its process was killed; run it again"), force=True)


def _alive(pid: str) -> bool:
    """Whether that process of Prefect's still runs; ids of ended ones may be a stranger's by now."""
    try:
        return any("prefect" in word for word in psutil.Process(int(pid)).cmdline())
    except (ValueError, psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
