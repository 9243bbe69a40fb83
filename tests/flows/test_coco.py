"""A genuine COCO folder from raw files to a report: the tests' own, and the shared one of real images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.commands import COCO, FIXTURE, REPOSITORY, Commands, Done
from tests.pipeline.conftest import published
from uio2.pipeline.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARED = REPOSITORY.parent / "shared" / "data" / "coco_mini"
FIELDS = {"value", "low", "high", "baseline", "n"}


def run_coco(commands: Commands, store: Path, folders: dict[str, Path]) -> Done:
    """The whole pipeline over source folders; MLflow is the digits' matter."""
    options = [word for key, path in folders.items() for word in (f"--{key}", str(path))]
    how = ("--strict", "--no-prefect", "--json")
    done = commands.run("run", *COCO, *options, *how, store=store, settings={"UIO2_MLFLOW": "off"})
    assert done.status == 0, done.stderr
    return done


def check_account(done: Done, *, tasks: tuple[str, ...]) -> None:
    """Every stage is published, every task measured, the report there."""
    account = done.json()
    assert account["status"] == "finished"
    digests = published(Store(done.store))
    assert digests == {f"coco/{row['stage']}": row["digest"] for row in account["stages"]}
    assert {key.partition("/")[0] for key in account["metrics"]} == set(tasks)
    for row in account["metrics"].values():
        assert row.keys() == FIELDS
        assert row["n"] > 0
        assert row["low"] <= row["value"] <= row["high"]
    assert "data:image/" in Path(account["report"]).read_text(encoding="utf-8")


def test_the_fixture_goes_the_whole_way(commands, tmp_path):
    folders = {role: FIXTURE / role for role in ("images", "annotations", "vqa", "refer")}
    done = run_coco(commands, tmp_path / "store", folders)
    check_account(done, tasks=("vqa", "box_classification", "refexp", "caption"))
    lineage = commands.run("lineage", "coco@1", "--json", store=tmp_path / "store").json()
    assert lineage["ok"]
    sources = {node["name"]: node["uri"] for node in lineage["nodes"] if node["kind"] == "source"}
    assert sources == {role: str(path) for role, path in folders.items()}


@pytest.mark.long
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_real_images_go_the_whole_way(commands, tmp_path):
    folders = {"images": SHARED, **{role: SHARED / role for role in ("annotations", "vqa", "refer")}}
    done = run_coco(commands, tmp_path / "store", folders)
    # Its 39 questions are all of training images, so VQA is trained and has nothing to be measured on.
    check_account(done, tasks=("box_classification", "refexp", "caption"))
    record, _ = Store(done.store).newest("coco/build-coco")
    assert record["stats"]["splits"] == {"train": 34, "validation": 30}
