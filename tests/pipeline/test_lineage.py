"""Lineage from records alone, and MLflow as a mirror of them."""

from __future__ import annotations

import collections
import json
import re
from xml.etree import ElementTree

import pytest

from uio2.cli.main import main
from uio2.pipeline import accounts, registry
from uio2.pipeline.console import Console
from uio2.pipeline.execution import Execution
from uio2.pipeline.lineage import resolve, walk
from uio2.pipeline.runner import Runner
from uio2.pipeline.spool import Attempt, Entry, Spool
from uio2.pipeline.stage import StageError, UsageError
from uio2.pipeline.tracking import open_tracker, unmirrored


def statuses(store, reference: str) -> dict[str, str]:
    """name -> status along the chain."""
    return {node.name: node.status for node in walk(store, reference) if not node.seen}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "x.txt").write_text("one")
    return folder


def test_the_chain_reaches_the_raw_files_and_everything_matches(store, toys, run, source):
    run(toys(files=str(source)))
    expected = dict.fromkeys(["toys/a", "toys/b", "toys/c", "toys/d", "files"], "ok")
    assert statuses(store, "toys@1") == expected
    assert [node.role for node in walk(store, "toys/c")] == ["", "a", "files"]


def test_a_flipped_byte_an_edited_record_and_changed_raw_files_are_found(store, toys, run, source):
    outcomes = run(toys(files=str(source)))
    data = outcomes["b"].artifact.path / "part0" / "data.txt"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    (source / "x.txt").write_text("eno")
    record = outcomes["c"].artifact.path / "artifact.json"
    record.write_text(record.read_text().replace('"text": "c"', '"text": "e"'))
    (outcomes["d"].artifact.path / "when.log").write_text("volatile files may differ")
    assert statuses(store, "toys@1") == {
        "toys/d": "ok",
        "toys/b": "MISMATCH",
        "toys/a": "ok",
        "files": "MISMATCH",
        "toys/c": "MISMATCH",
    }


def test_the_page_shows_every_node_and_edge_and_loads_nothing(store, toys, run, source, tmp_path):
    outcomes = run(toys(files=str(source)))
    data = outcomes["b"].artifact.path / "part0" / "data.txt"
    data.write_text("<script>")
    page = tmp_path / "lineage.html"
    assert main(["lineage", "toys@champion", "--html", str(page), "--store", str(store.root)]) == 1
    text = page.read_text()
    root = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    boxes = [group.attrib["class"] for group in root.iter("g")]
    assert sorted(boxes) == ["model", "raw", "raw broken", "report", "source"]
    assert len(list(root.iter("path"))) == 5  # files -> a -> (b, c) -> d
    assert all(outcome.artifact.digest[:10] in text for outcome in outcomes.values())
    assert not re.search(r"(?:src|href)=|url\(|@import", text)
    assert main(["lineage", "toys", "--html", str(tmp_path / "no" / "x.html"), "--store", str(store.root)]) == 2


def test_unknown_references_say_what_there_is(store, toys, run):
    run(toys())
    with pytest.raises(UsageError, match="there are: toys@1"):
        resolve(store, "toys@7")
    with pytest.raises(UsageError, match="toys/a@1, toys/b@1"):
        resolve(store, "toys/z")


@pytest.mark.timeout(180)
def test_mlflow_mirrors_records_failures_and_models(store, toys, monkeypatch):
    monkeypatch.delenv("UIO2_MLFLOW")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    console = Console(quiet=True)

    def run(pipeline):
        tracker = open_tracker(store, pipeline="toys", console=console)
        try:
            Execution(pipeline, Runner(store, pipeline="toys", console=console, tracker=tracker)).run()
        finally:
            tracker.close()

    monkeypatch.setenv("UIO2_MLFLOW", "off")
    run(toys())  # runs that MLflow has never heard of: made from the records later
    monkeypatch.delenv("UIO2_MLFLOW")
    assert unmirrored(store)
    with pytest.raises(StageError):
        run(toys("d/toy.ToySpec.fail='stage'"))
    assert not unmirrored(store)

    from mlflow.tracking import MlflowClient

    client = MlflowClient(
        tracking_uri=f"sqlite:///{store.root}/mlflow.db", registry_uri=f"sqlite:///{store.root}/mlflow.db"
    )
    experiment = client.get_experiment_by_name("toys").experiment_id
    everything = client.search_runs([experiment])
    runs = [r for r in everything if "uio2.stage" in r.data.tags]
    assert sorted(r.info.status for r in runs) == ["FAILED"] + ["FINISHED"] * 4
    parents = {r.info.run_id: r for r in everything if r not in runs}
    children = collections.Counter(parents[r.data.tags["mlflow.parentRunId"]].info.status for r in runs)
    assert children == {"FINISHED": 4, "FAILED": 1}
    whole = next(r for r in parents.values() if r.info.status == "FINISHED")
    assert (whole.data.params["b.text"], whole.data.params["pipeline"]) == ("'b'", "toys")
    d = next(r for r in runs if r.data.tags["uio2.stage"] == "model" and r.info.status == "FINISHED")
    record, _ = resolve(store, "toys/d")
    assert d.data.tags["uio2.fingerprint"] == record["fingerprint"]
    assert d.data.tags["uio2.parent.b"] == record["inputs"]["b"]["digest"]
    assert d.data.params["text"] == "x"
    assert [m.value for m in client.get_metric_history(d.info.run_id, "loss")] == [1.0, 0.5, 1 / 3]
    contexts = {item.tags[0].value: json.loads(item.dataset.source)["digest"] for item in d.inputs.dataset_inputs}
    assert contexts["output"] == record["digest"]
    assert contexts["input:b"] == record["inputs"]["b"]["digest"]
    version = client.get_model_version("toys", "1")
    assert version.tags["uio2.fingerprint"] == record["fingerprint"]
    assert version.run_id == d.info.run_id
    assert version.tags["uio2.data.toys/a"] == resolve(store, "toys/a")[0]["digest"]

    # What changes while MLflow is out of reach, or whose runner is killed, is caught up with: aliases and parents.
    monkeypatch.setenv("UIO2_MLFLOW", "off")
    run(toys("d/toy.ToySpec.text='better'"))
    registry.rollback(store, "toys", to=2)
    dead = accounts.new_id("toys")
    accounts.write_account(
        store, dead, accounts.read_account(store, accounts.executions(store)[0]) | {"status": "running"}
    )
    monkeypatch.delenv("UIO2_MLFLOW")
    assert unmirrored(store)
    open_tracker(store, pipeline="toys", console=console).close()
    assert not unmirrored(store)
    assert str(client.get_model_version_by_alias("toys", "champion").version) == "2"
    assert client.get_model_version("toys", "2").tags["uio2.decision"].startswith("rollback")
    (killed,) = client.search_runs([experiment], f"tags.`uio2.run` = '{dead}'")
    assert killed.info.status == "KILLED"

    # What was sent and not answered is sent again, by whoever comes next; who died is told of.
    (store.root / "cache" / "mlflow" / record["fingerprint"][:16]).unlink()
    dead = Attempt(f"{'0' * 16}-dead", "0" * 64, "toys/b", record["started"], "dead.log", "dead.metrics.jsonl", record)
    (store.root / dead.metrics).write_text('{"step": 1, "time": 1.5, "values": {"loss": 2.0}}\n{"step": 2, "ti')
    Spool(store).put(Entry(dead))
    assert unmirrored(store)
    open_tracker(store, pipeline="toys", console=console).close()
    assert not unmirrored(store)
    assert [m.value for m in client.get_metric_history(d.info.run_id, "loss")] == [1.0, 0.5, 1 / 3]
    (killed,) = client.search_runs([experiment], f"tags.`uio2.attempt` = '{dead.id}'")
    assert killed.info.status == "KILLED"
    assert [(m.step, m.value) for m in client.get_metric_history(killed.info.run_id, "loss")] == [(1, 2.0)]
