"""MLflow's tables are all there or not at all, whoever is killed while they are made."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from mlflow.tracking import MlflowClient

from tests.flows.commands import REPOSITORY, environment
from uio2.pipeline.mlflow_database import NAME, UNFINISHED, database_uri, make_database


@pytest.mark.slow
def test_a_kill_among_the_migrations_leaves_nothing_in_the_way(store):
    store.prepare()
    command = [sys.executable, "-m", "uio2.pipeline.mlflow_database", str(store.root), "/bin/true"]
    maker = subprocess.Popen(command, cwd=REPOSITORY, env=environment())
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in store.root.glob(f"{UNFINISHED}*")):
        assert maker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert not (store.root / NAME).exists(), "killed too late to mean anything"
    make_database(store)
    assert not list(store.root.glob(f"{UNFINISHED}*"))
    uri = database_uri(store)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_experiment("there")
    assert client.search_registered_models() == []
    (default,) = client.search_experiments(filter_string="name = 'Default'")
    assert default.artifact_location.startswith(str((store.root / "mlflow-artifacts").as_uri()))
