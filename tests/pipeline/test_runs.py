"""What runs and what is reused, and what a failure says."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from tests.pipeline.conftest import counts, published
from tests.pipeline.toy_stages import TOY, ToySpec
from uio2.pipeline import registry
from uio2.pipeline.console import Console
from uio2.pipeline.execution import Execution
from uio2.pipeline.plan import plan
from uio2.pipeline.runner import Runner
from uio2.pipeline.stage import Pipeline, Stage, StageError, UsageError


def test_a_changed_value_reruns_that_stage_and_what_depends_on_it(store, toys, run, executions):
    run(toys())
    changed = run(toys("b/toy.ToySpec.text='other'"))
    assert {name: outcome.reused for name, outcome in changed.items()} == {"a": True, "b": False, "c": True, "d": False}
    assert counts(executions("start"), store) == {"toys/a": 1, "toys/b": 2, "toys/c": 1, "toys/d": 2}


def test_an_equal_output_does_not_rerun_what_depends_on_it(toys, run):
    run(toys())
    outcomes = run(toys("b/toy.ToySpec.factor=2.0"))  # enters the fingerprint, not the files
    assert {name for name, outcome in outcomes.items() if not outcome.reused} == {"b"}


def test_plan_names_the_changed_field_and_what_waits(store, toys, run):
    run(toys())
    items = {item.stage: item for item in plan(toys("b/toy.ToySpec.text='other'"), store=store)}
    assert {name: item.status for name, item in items.items()} == {
        "a": "cached",
        "b": "run",
        "c": "cached",
        "d": "waits",
    }
    assert [str(change) for change in items["b"].changes] == ["spec.text: 'b' -> 'other'"]
    assert "b" in items["d"].reason


def test_source_content_decides_and_a_moved_folder_does_not_run_what_follows(store, toys, run, tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    (first / "x.txt").write_text("one")
    run(toys(files=str(first)))
    second = first.rename(tmp_path / "second")
    moved = run(toys(files=str(second)))
    assert {name for name, outcome in moved.items() if not outcome.reused} == {"a"}
    (second / "x.txt").write_text("two")
    changed = run(toys(files=str(second)))
    assert not any(outcome.reused for outcome in changed.values())


def test_missing_and_empty_sources_are_named(store, toys, run, tmp_path):
    with pytest.raises(UsageError, match="files: no such file or folder: /nowhere"):
        run(toys(files="/nowhere"))
    with pytest.raises(UsageError, match="holds no files"):
        run(toys(files=str(tmp_path / "store" / "locks")))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("stage", ["stage a failed: key 'a' is 3, expected a word", "log: "]),
        ("bug", ["KeyError: 'nothing here' (toy_stages.py:"]),
        ("exit", ["stage a ended with status 7", "| about to leave"]),
    ],
)
def test_a_failing_stage_says_one_thing_and_leaves_nothing(fault, words, store, toys, run):
    with pytest.raises(StageError) as caught:
        run(toys(f"a/toy.ToySpec.fail='{fault}'"))
    for word in words:
        assert word in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert published(store) == {}
    log = Path(str(caught.value).rsplit("log: ", 1)[1])
    assert ("Traceback" in log.read_text()) == (fault != "exit")


def test_output_with_a_link_or_without_files_is_refused(store, tmp_path):
    for name, message in (("linking", "is a link to"), ("writes_nothing", "wrote no file")):
        kind = dataclasses.replace(TOY, name=name, run=f"tests.pipeline.test_runs:{name}")
        pipeline = Pipeline("bad", (Stage(name, kind, ToySpec()),))
        runner = Runner(store, pipeline="bad", console=Console(quiet=True))
        with pytest.raises(StageError, match=message):
            Execution(pipeline, runner).run()
    assert published(store) == {}


def linking(spec, context):
    """A stage that links instead of writing."""
    os.symlink("/etc/hostname", context.out / "link")


def writes_nothing(spec, context):
    """A stage that leaves its output empty."""


def test_model_versions_count_up_once_per_output(store, toys, run):
    run(toys())
    run(toys())
    run(toys("d/toy.ToySpec.text='better'"))
    assert [version.number for version in registry.versions(store, "toys")] == [1, 2]


def test_unwritable_store_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    from uio2.pipeline.store import Store

    with pytest.raises(StageError, match=r"is not writable .*--store DIR"):
        Store(tmp_path / "file" / "store").prepare()


@pytest.mark.parametrize("name", ["../x", "a/../b", "/etc/x", "a/b/c", "a", "a/.hidden"])
def test_names_that_leave_the_store_are_refused(store, name):
    with pytest.raises(StageError, match="artifact name"):
        store.newest(name)


def test_a_directory_without_record_is_not_published_and_is_replaced(store, toys, run):
    outcome = run(toys())["a"]
    (outcome.artifact.path / "artifact.json").unlink()
    assert store.find(outcome.artifact.fingerprint) is None
    again = run(toys())["a"]
    assert not again.reused
    assert again.artifact.digest == outcome.artifact.digest
