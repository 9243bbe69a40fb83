"""MLflow's server dies in the middle of a stage and comes back: the stage goes on, nothing is lost or told twice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.pipeline.toy_stages import TOY, ToySpec
from uio2.pipeline import tracking
from uio2.pipeline.console import Console
from uio2.pipeline.launch.launcher import free_port
from uio2.pipeline.runner import Runner
from uio2.pipeline.stage import Stage, StageError
from uio2.pipeline.tracking import open_tracker, unmirrored

LINES = 80


class Server:
    """MLflow's own server, that can be killed and started again on the same port and tables."""

    def __init__(self, folder):
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self):
        tables = ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--workers", "1"]
        with open(self._folder / "server.log", "a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *tables, "--host", "127.0.0.1", "--port", str(self._port)],
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert until(lambda: urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def until(true, seconds=120):
    for _ in range(5 * seconds):
        with contextlib.suppress(OSError):
            if true():
                return True
        time.sleep(0.2)
    return False


@pytest.fixture
def server(tmp_path):
    found = Server(tmp_path)
    found.start()
    yield found
    found.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_metrics_of_an_outage_come_later_in_order_and_once(server, store, monkeypatch, tmp_path):
    monkeypatch.setenv("UIO2_MLFLOW", server.url)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    monkeypatch.setattr(tracking, "POLL_S", 0.5)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.url)

    def found(experiment):
        known = client.get_experiment_by_name(experiment)
        return client.search_runs([known.experiment_id], order_by=["attributes.start_time"]) if known else []

    tracker = open_tracker(store, pipeline="toys", console=(console := Console(quiet=True)))
    said = []
    console.listen("mlflow", said.append)
    runner = Runner(store, pipeline="toys", console=console, tracker=tracker)
    written = lambda: sum(path.read_text().count('"loss"') for path in store.root.glob("logs/toys/a/*.metrics.jsonl"))  # noqa: E731
    seen = []

    def disturb(done, total, text):
        if not seen and done > 10 and found("toys") and found("toys")[0].data.metrics:
            server.kill()
            seen.append(done)
        elif len(seen) == 1 and done > seen[0] + 20:
            seen.append(done)

    monkeypatch.setattr("uio2.pipeline.console.EVERY_S", 0.2)
    console.watch("a", disturb)
    runner.run(Stage("a", TOY, ToySpec(files=LINES, sleep=20.0)), {})
    assert len(seen) == 2, "the stage went on while the server was away"
    with pytest.raises(StageError):
        runner.run(Stage("b", TOY, ToySpec(fail="stage")), {})
    server.start()
    assert until(lambda: [run.info.status for run in found("toys")] == ["FINISHED", "FAILED"])
    assert written() == LINES
    points = client.get_metric_history(found("toys")[0].info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(n, 1 / (n + 1)) for n in range(LINES)]
    assert "system/cpu_utilization_percentage" in found("toys")[0].data.metrics

    server.kill()  # and once more at the end: the next run makes up for it
    runner.run(Stage("c", TOY, ToySpec(text="y", files=5)), {})
    tracker.close()
    assert [text.split(" (")[0] for text in said if "written" in text or "kept" in text][-1] == "not written"
    assert unmirrored(store)
    server.start()
    open_tracker(store, pipeline="toys", console=console).close()
    assert not unmirrored(store)
    assert [run.info.status for run in found("toys")] == ["FINISHED", "FAILED", "FINISHED"]
    points = client.get_metric_history(found("toys")[2].info.run_id, "loss")
    assert [point.step for point in points] == list(range(5))
