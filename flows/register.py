"""Puts the deployments of `prefect.yaml` on the Prefect server of `uio2 up`, and the work pool they run in."""

from __future__ import annotations

import os
import subprocess
import sys

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
