"""Builds whose workers share nothing with this machine: results on a store, and the request that starts a real job."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beam_jobs import dataflow
from beam_jobs.request import running_on
from beam_jobs.runner import WORK
from beam_jobs.specs import BUILD_COCO, IMPORT_RAW, CocoSpec, ImportSpec
from tests.beam_jobs.conftest import FIXTURE, Built, run_stage
from tests.remote.conftest import REPOSITORY, Stores, environment
from tests.remote.test_builds import source
from uio2.pipeline.places import remote
from uio2.pipeline.stage import StageError

SPEC = CocoSpec(num_shards=2, limit=10)


def raw_at(folder: Path, base: str) -> Built:
    return run_stage(IMPORT_RAW, ImportSpec(), folder, **{r: source(f"{base}/{r}") for r in ("images", "annotations")})


def test_shards_written_to_a_store_make_the_same_dataset_and_outlive_a_failure(stores: Stores, tmp_path, monkeypatch):
    expected = run_stage(BUILD_COCO, SPEC, tmp_path / "here", raw=raw_at(tmp_path / "a", str(FIXTURE)).artifact)
    raw = raw_at(tmp_path / "b", f"{stores.gs}/coco").artifact
    monkeypatch.setenv(WORK, f"{stores.gs}/work/")
    files = remote.file_system("gs")
    written: list[str] = []

    def killed(url: str, folder: Path) -> None:
        written.extend(name for name in files.find(f"{stores.gs[5:]}/work") if ".tfrecord-" in name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataflow.work_files, "fetch", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stage(BUILD_COCO, SPEC, tmp_path / "there", raw=raw)
    made = {name: files.info(name)["generation"] for name in written if not name.endswith((".json", ".looks"))}
    assert len(made) == 4
    kept: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setattr(dataflow.work_files, "remove", lambda url: kept.update(files.find(url[5:], detail=True)))
        built = run_stage(BUILD_COCO, SPEC, tmp_path / "there", raw=raw)
    assert built.shards() == expected.shards()
    assert {name: kept[name]["generation"] for name in made} == made
    again = run_stage(BUILD_COCO, SPEC, tmp_path / "elsewhere", raw=raw)
    assert again.shards() == expected.shards()
    assert not files.find(f"{stores.gs[5:]}/work")


@pytest.fixture
def service() -> Iterator[tuple[str, list[Any]]]:
    """The address of something that takes Dataflow's create call, and the jobs that were asked for."""
    jobs: list[Any] = []

    class Service(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            jobs.append((self.path, job))
            body = json.dumps({"id": "1", "name": job["name"], "currentState": "JOB_STATE_FAILED"}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.send_error(400, "no such call here")

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}", jobs
    server.shutdown()


def test_the_request_for_a_job_names_its_steps_packages_and_options(stores: Stores, service, tmp_path, monkeypatch):
    address, jobs = service
    raw = raw_at(tmp_path / "raw", f"{stores.gs}/coco").artifact
    flags = ["--runner=DataflowRunner", "--project=lab", "--region=europe-west4", "--max_num_workers=7", "--no_auth",
             "--machine_type=n2-standard-4", f"--dataflow_endpoint={address}"]  # fmt: skip
    monkeypatch.setenv("UIO2_BEAM_OPTIONS", shlex.join(flags))
    with pytest.raises(StageError, match=r"cannot write to this machine; give --work gs://BUCKET/FOLDER"):
        run_stage(BUILD_COCO, SPEC, tmp_path / "coco", raw=raw)
    monkeypatch.setenv(WORK, f"{stores.gs}/jobs")
    here = raw_at(tmp_path / "here", str(FIXTURE)).artifact
    with pytest.raises(StageError, match=r"lies on this machine, which the workers of DataflowRunner cannot read"):
        run_stage(BUILD_COCO, SPEC, tmp_path / "coco", raw=here)
    assert not jobs
    with pytest.raises(Exception, match="Dataflow pipeline failed"):
        run_stage(BUILD_COCO, SPEC, tmp_path / "coco", raw=raw)
    ((path, job),) = jobs
    assert path.startswith("/v1b3/projects/lab/locations/europe-west4/jobs")
    assert job["name"].startswith("uio2-coco-all-")
    (pool,) = job["environment"]["workerPools"]
    assert (pool["machineType"], pool["autoscalingSettings"]["maxNumWorkers"]) == ("n2-standard-4", 7)
    options = {o["key"]: o["value"] for o in job["environment"]["sdkPipelineOptions"]["display_data"]}
    assert options["temp_location"].startswith("gs://lab/jobs/beam-temp/uio2-coco-all-")
    assert {"Read", "Join", "Assemble", "Limit", "GroupByShard", "WriteShards", "SaveLetters"} <= _steps(options)
    _check_wheel(pool["packages"], tmp_path)

    monkeypatch.delenv(WORK)
    with running_on("", out=f"{stores.gs}/sets/coco/"), pytest.raises(Exception, match="Dataflow pipeline failed"):
        run_stage(BUILD_COCO, SPEC, tmp_path / "coco", raw=raw)
    assert WORK not in os.environ
    beside = {o["key"]: o["value"] for o in jobs[1][1]["environment"]["sdkPipelineOptions"]["display_data"]}
    assert beside["temp_location"].startswith("gs://lab/sets/coco-work/beam-temp/")


def _steps(options: dict[str, Any]) -> set[str]:
    """The outermost parts of the names of the staged graph's transforms."""
    from apache_beam.portability.api import beam_runner_api_pb2

    staged = options["temp_location"].removeprefix("gs://")
    graph = beam_runner_api_pb2.Pipeline.FromString(remote.file_system("gs").cat_file(f"{staged}/pipeline.pb"))
    return {t.unique_name.partition("/")[0] for t in graph.components.transforms.values()}


def _check_wheel(packages: list[dict[str, str]], folder: Path) -> None:
    """The staged wheel is all that a worker needs beside packages: a process imports the builders from it."""
    (location,) = [p["location"] for p in packages if p["name"].startswith("uio2-")]
    wheel = folder / location.rpartition("/")[2]
    wheel.write_bytes(remote.file_system("gs").cat_file(location.removeprefix("storage.googleapis.com/")))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import beam_jobs.coco, beam_jobs.speech as s; print(s.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(wheel)], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith(str(wheel)), done.stderr
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert "Requires-Dist: gcsfs==" in metadata
    assert f"Requires-Dist: pillow=={importlib.metadata.version('pillow')}" in metadata


@pytest.mark.slow
def test_the_flex_template_stages_the_job_and_says_what_it_is_not(stores: Stores, tmp_path: Path):
    location = f"{stores.gs}/templates/one.json"
    command = [sys.executable, "deploy/dataflow/launch.py", "--dataset=coco", f"--work={stores.gs}/flex",
               f"--images={stores.gs}/coco/images", f"--annotations={stores.gs}/coco/annotations", "--num_shards=2",
               f"--template_location={location}", "--project=lab", "--region=europe-west4", "--job_name=mine",
               "--no_auth"]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert f"the job is staged at {location} and has not run" in done.stderr
    job = json.loads(remote.file_system("gs").cat_file(location[5:]))
    assert job["name"] == "mine"
    assert job["environment"]["workerPools"][0]["packages"]
