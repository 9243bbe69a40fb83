"""Deployments with real processes: server, worker and flow runs of `uio2 up`, and what happens when one dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.flows.up import SERVICES, Up, wait_for
from uio2.pipeline.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("deployments"), pytest.mark.timeout(240)]


def test_up_serves_on_localhost_and_asked_again_finds_the_same(up: Up) -> None:
    for name in ("mlflow", "prefect"):
        assert up.found[name]["url"].startswith("http://127.0.0.1:")
        assert urllib.request.urlopen(up.found[name]["url"], timeout=20).status == 200
    pids = {name: up.found[name]["pid"] for name in SERVICES}
    up.up()
    assert {name: up.found[name]["pid"] for name in SERVICES} == pids


def test_a_bare_name_starts_the_deployment_and_its_page_tells_what_was_made(up: Up) -> None:
    run = up.start("SLEEP=0.1")
    up.wait_state(run, "Completed")
    pages = up.api("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    texts = {page["key"]: page["data"] for page in pages if page["type"] == "markdown"}
    record, _ = next(found for found in Store(up.store).records() if found[0]["name"] == "toys/a")
    assert record["digest"] in texts["toys-a"]
    assert "nested.mean | 0.5" in texts["toys-a"]


def test_other_names_are_explained_and_full_ones_go_through(up: Up) -> None:
    unknown = up.prefect("deployment", "run", "pipelin")
    assert unknown.returncode == 1
    assert "did you mean 'pipeline'?" in unknown.stderr
    assert up.prefect("deployment", "inspect", "pipeline/pipeline").returncode == 0


def test_forms_describe_typed_parameters(up: Up) -> None:
    (found,) = up.api("/deployments/filter", {"deployments": {"name": {"any_": ["build-coco"]}}})
    schema = found["parameter_openapi_schema"]
    assert schema["required"] == ["images", "annotations"]
    assert schema["properties"]["num_shards"]["type"] == "integer"
    assert all(value["description"] for value in schema["properties"].values())
    run = up.prefect("deployment", "run", "build-coco", "-p", "images=x", "-p", "annotations=y", "-p", "num_shards=0")
    assert run.returncode != 0


def test_a_dataset_is_built_and_a_tokenizer_trained_on_it(up: Up, tmp_path: Path) -> None:
    rows = [{"instruction": f"Say what {n} and {n} make.", "input": "", "output": f"{2 * n}"} for n in range(60)]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    wrong = up.run("build-instructions", text=str(tmp_path / "alpaka.json"))
    up.wait_state(wrong, "Failed")
    assert "text = " in up.api(f"/flow_runs/{wrong}")["state"]["message"]
    up.wait_state(up.run("build-instructions", text=str(tmp_path / "alpaca.json")), "Completed")
    up.wait_state(up.run("train-tokenizer", datasets='["alpaca"]', vocab_size="320"), "Completed")
    record, path = Store(up.store).newest("tokenizers/tokenizer") or ({}, Path())
    assert record["inputs"]["alpaca"]["name"] == "datasets/build-alpaca"
    assert (path / "tokenizer.model").stat().st_size > 0


def test_cancelling_ends_the_stage_and_leaves_nothing_behind(up: Up) -> None:
    before = len(list(Store(up.store).records()))
    run = up.start("SLEEP=90")
    wait_for(lambda: bool(up.stages()), "a stage runs")
    assert up.prefect("flow-run", "cancel", run).returncode == 0
    up.wait_state(run, "Cancelled")
    wait_for(lambda: not up.stages(), "its child is gone", seconds=20)
    store = Store(up.store)
    assert len(list(store.records())) == before
    locks = [path for path in (store.root / "locks").glob("*") if path.is_file()]
    assert all(_free(path) for path in locks)


def _free(lock: Path) -> bool:
    """Whether nobody holds the lock."""
    return subprocess.run(["flock", "--nonblock", str(lock), "true"]).returncode == 0


def test_two_runs_at_once_share_the_work(up: Up) -> None:
    before = len(up.events())
    runs = [up.start("SLEEP=3"), up.start("SLEEP=3")]
    for run in runs:
        up.wait_state(run, "Completed")
    events = [line.split()[2] for line in up.events()[before:]]
    assert sorted(events) == ["end"] * 4 + ["start"] * 4


def test_a_stage_that_keeps_failing_stops_the_flow_with_the_end_of_its_log(up: Up) -> None:
    before = len(up.events())
    run = up.start("b/toy.ToySpec.fail='exit'", "SLEEP=0.2")
    up.wait_state(run, "Failed")
    lines = [line.split() for line in up.events()[before:]]
    failed = {key for _, key, event in lines if event == "start"} - {key for _, key, event in lines if event == "end"}
    assert [sum(key == k and event == "start" for _, key, event in lines) for k in failed] == [3]
    pages = up.api("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    assert any("about to leave" in page["data"] for page in pages if page["key"] == "toys-b")
    assert not any(page["key"] == "toys-d" for page in pages)


def test_a_restarted_server_learns_how_the_run_went_on(up: Up) -> None:
    before = len(up.events())
    run = up.start("a/toy.ToySpec.sleep=8")
    wait_for(lambda: bool(up.stages()), "a stage runs")
    os.kill(up.found["prefect"]["pid"], signal.SIGKILL)
    up.up()
    up.wait_state(run, "Completed")
    assert sorted(line.split()[2] for line in up.events()[before:]) == ["end"] * 4 + ["start"] * 4


def test_after_a_killed_worker_the_next_run_finishes(up: Up) -> None:
    slow = "a/toy.ToySpec.sleep=13"
    run = up.start(slow)
    wait_for(lambda: bool(up.stages()), "a stage runs")
    (stage,) = up.stages()
    worker = psutil.Process(up.found["worker"]["pid"])
    for process in [worker, *worker.children(recursive=True)]:
        if process.pid != stage.pid:  # it must notice by itself
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    wait_for(lambda: not up.stages(), "its child is gone", seconds=20)
    up.up()
    up.wait_state(run, "Crashed")
    up.wait_state(up.start(slow), "Completed")
