"""Launchers: several processes of this machine, and JobSets against a server whose pods are processes too."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from tests.pipeline.jobset_server import serve
from tests.pipeline.launch_stage import ECHO
from tests.pipeline.toy_stages import ToySpec
from uio2.pipeline.console import Console
from uio2.pipeline.launch import jobset_schema
from uio2.pipeline.launch.cluster import Cluster, ClusterError
from uio2.pipeline.launch.jobset import WORK_LABEL, JobSetSettings
from uio2.pipeline.launch.kubernetes import KubernetesJobSet, manifest_of
from uio2.pipeline.launch.launcher import LocalProcesses
from uio2.pipeline.launch.topology import Slice
from uio2.pipeline.process import Cancelled
from uio2.pipeline.runner import Runner
from uio2.pipeline.stage import Stage, StageError, UsageError
from uio2.pipeline.store import Store


def runner(folder, launcher=None) -> Runner:
    launchers = {"echo": launcher} if launcher else {}
    return Runner(Store(folder), pipeline="toys", console=Console(quiet=True), launchers=launchers)


def echo(**settings) -> Stage:
    return Stage("A_b.1", ECHO, ToySpec(**settings))


def log_of(folder) -> str:
    return "".join(path.read_text() for path in (folder / "logs").glob("toys/*/*.log"))


@pytest.fixture
def api(tmp_path):
    with serve(tmp_path) as server:
        yield server


def on_cluster(api, store, **changes) -> KubernetesJobSet:
    settings = JobSetSettings(slice=Slice.parse("v5e:2x4"), image="uio2", claim="store", mount=str(store))
    settings = dataclasses.replace(settings, **({"namespace": "train"} | changes))
    return KubernetesJobSet(settings, Cluster(api.url, settings.namespace), poll_s=0.2)


def test_processes_of_one_machine_train_as_one_and_make_what_one_makes(tmp_path):
    alone = runner(tmp_path / "alone").run(echo(), {}).artifact
    together = runner(tmp_path / "three", LocalProcesses(3)).run(echo(), {}).artifact
    assert (together.digest, together.fingerprint) == (alone.digest, alone.fingerprint)
    assert together.stats == {"seen": ["0.txt", "1.txt", "2.txt"], "process": 0}
    assert "[2] process 2 of 3" in log_of(tmp_path / "three")
    with pytest.raises(StageError, match=r"ended with status 1(.|\n)*process-1: process 1 cannot go on"):
        runner(tmp_path / "failing", LocalProcesses(2, follow_s=0.1)).run(echo(fail="1"), {})


def test_a_stage_runs_in_pods_and_its_jobset_is_gone_afterwards(api, tmp_path):
    store = tmp_path / "store"
    artifact = runner(store, on_cluster(api, store, slices=2)).run(echo(), {}).artifact
    assert artifact.digest == runner(tmp_path / "alone").run(echo(), {}).artifact.digest
    assert artifact.stats["seen"] == ["0.txt", "1.txt", "2.txt", "3.txt"]
    (pods,) = api.jobsets.values()
    assert pods.deleted
    assert list(pods.processes) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert "process 0 of 4" in log_of(store)
    assert '{"done"' not in log_of(store)


def test_a_failure_in_a_pod_is_the_stage_s_message(api, tmp_path):
    with pytest.raises(StageError, match=r"stage A_b\.1 failed: process 0 cannot go on"):
        runner(tmp_path / "store", on_cluster(api, tmp_path / "store")).run(echo(fail="0"), {})
    assert all(pods.deleted for pods in api.jobsets.values())
    with pytest.raises(ClusterError, match="jobsets is forbidden"):
        runner(tmp_path / "x", on_cluster(api, tmp_path / "x", namespace="forbidden")).run(echo(), {})
    lost = KubernetesJobSet(on_cluster(api, tmp_path).settings, Cluster("http://127.0.0.1:9", "train"))
    with pytest.raises(ClusterError, match=r"cannot be reached .*run `kubectl proxy`"):
        runner(tmp_path / "y", lost).run(echo(), {})


def test_cancelling_deletes_the_jobset_and_what_a_dead_runner_left_is_deleted_first(api, tmp_path):
    store = tmp_path / "store"
    stopped = runner(store, on_cluster(api, store))

    def cancel() -> None:
        while not api.jobsets:
            time.sleep(0.05)
        stopped.cancel()

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(Cancelled):
        stopped.run(echo(sleep=60.0), {})
    (pods,) = api.jobsets.values()
    assert pods.deleted
    pods.deleted = False  # as if that runner had been killed
    again = on_cluster(api, store)
    label = {WORK_LABEL: pods.manifest["metadata"]["labels"][WORK_LABEL]}
    assert again.cluster.named(label) == [pods.manifest["metadata"]["name"]]
    stopping = runner(store, again)
    threading.Thread(target=lambda: (time.sleep(1.0), stopping.cancel()), daemon=True).start()
    with pytest.raises(Cancelled):
        stopping.run(echo(sleep=60.0), {})
    assert again.cluster.named(label) == []


def test_a_misspelt_field_is_refused_with_its_place(tmp_path):
    settings = JobSetSettings(slice=Slice.parse("v4:2x2x4"), image="i", claim="c", mount="/store", spot=True)
    manifest = manifest_of(settings, stage="train", attempt=tmp_path / "0123456789abcdef-01234567")
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["nodeSelektor"] = pod.pop("nodeSelector")
    with pytest.raises(StageError, match=r"JobSet\.spec\.replicatedJobs\[0\]\.template.*'nodeSelektor' was unexpected"):
        jobset_schema.check(manifest)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e", "a v5e slice has 2 axes; write v5e:4x8"),
        ("v4:4x8", "a v4 slice has 3 axes"),
        ("v7:4x8", "one of v4, v5e, v5p, v6e"),
        ("v6e:3x3", "9 chips; expected 1, or whole hosts of 4"),
        ("v5e:32x32", "1024 chips; expected 1, or whole hosts of 4 up to 256"),
    ],
)
def test_topologies_that_there_are_not_are_refused(topology, message):
    with pytest.raises(UsageError, match=message):
        Slice.parse(topology)
