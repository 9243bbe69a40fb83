"""`import`: the user's folders, listed and hashed; and the whole path on real COCO where it is at hand."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from beam_jobs.specs import (
    BUILD_COCO,
    BUILD_REFCOCO,
    IMPORT_FILES,
    IMPORT_RAW,
    CocoSpec,
    ImportFilesSpec,
    ImportSpec,
    RefCocoSpec,
)
from tests.beam_jobs.conftest import FIXTURE, ROLES, at, run_stage
from uio2.pipeline.artifact import digest_directory
from uio2.pipeline.stage import StageError

MINI = Path(__file__).parents[3] / "shared" / "data" / "coco_mini"


def _inputs(root: Path) -> dict:
    return {role: at(root / role) for role in ROLES}


def test_manifest_lists_every_file_with_its_hash(tmp_path: Path):
    built = run_stage(IMPORT_RAW, ImportSpec(), tmp_path, **_inputs(FIXTURE))
    rows = [json.loads(line) for line in (built.out / "manifest.jsonl").read_text().splitlines()]
    files = {p for role in ROLES for p in (FIXTURE / role).rglob("*") if p.is_file()}
    assert {FIXTURE / r["role"] / r["path"] for r in rows} == files
    for row in rows:
        data = (FIXTURE / row["role"] / row["path"]).read_bytes()
        assert (row["size"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert built.stats["images"]["files"] == 24


def test_the_digest_says_what_was_imported_not_from_where(raw: Path, tmp_path: Path):
    here = run_stage(IMPORT_RAW, ImportSpec(), tmp_path / "a", **_inputs(FIXTURE))
    there = run_stage(IMPORT_RAW, ImportSpec(), tmp_path / "b", **_inputs(raw))
    digests = [digest_directory(b.out, volatile=IMPORT_RAW.volatile) for b in (here, there)]
    assert digests[0] == digests[1]


def test_builders_read_imported_folders(tmp_path: Path):
    imported = run_stage(IMPORT_RAW, ImportSpec(), tmp_path / "raw", **_inputs(FIXTURE))
    direct = run_stage(BUILD_COCO, CocoSpec(num_shards=1), tmp_path / "direct", raw=at(FIXTURE))
    built = run_stage(BUILD_COCO, CocoSpec(num_shards=1), tmp_path / "built", raw=imported.artifact)
    assert built.shards() == direct.shards()


@pytest.mark.parametrize(
    ("role", "spoil", "message"),
    [
        ("images", shutil.rmtree, "images = .*: no such folder"),
        ("images", lambda p: (shutil.rmtree(p), p.mkdir()), r"images = .*: no \.jpg or \.jpeg or \.png file"),
        (
            "annotations",
            lambda p: [f.rename(f.with_name("x" + f.name)) for f in p.glob("*.json")],
            r"no instances_\*\.json",
        ),
        (
            "annotations",
            lambda p: (shutil.rmtree(p), p.write_text("a file")),
            "annotations = .*: a file; give the folder",
        ),
        ("vqa", lambda p: [f.unlink() for f in p.glob("*annotations*")], "vqa = .*: no pair of"),
    ],
)
def test_what_is_missing_is_named(raw: Path, tmp_path: Path, role: str, spoil, message: str):
    spoil(raw / role)
    with pytest.raises(StageError, match=message):
        run_stage(IMPORT_RAW, ImportSpec(), tmp_path, **_inputs(raw))


def test_a_folder_that_vanished_after_the_import_is_named(raw: Path, tmp_path: Path):
    imported = run_stage(IMPORT_RAW, ImportSpec(), tmp_path, **_inputs(raw))
    shutil.rmtree(raw / "images")
    with pytest.raises(StageError, match=r"images = .*: it was imported but is gone"):
        run_stage(BUILD_COCO, CocoSpec(), tmp_path / "coco", raw=imported.artifact)


def test_any_files_are_imported_by_role_and_hidden_ones_left_out(tmp_path: Path):
    text = tmp_path / "text"
    (text / ".git").mkdir(parents=True)
    (text / ".git" / "x").write_text("hidden")
    (text / "a.json").write_text("[]")
    single = tmp_path / "b.csv"
    single.write_text("a,b")
    built = run_stage(IMPORT_FILES, ImportFilesSpec(), tmp_path, text=at(text), annotations=at(single))
    rows = [json.loads(line) for line in (built.out / "manifest.jsonl").read_text().splitlines()]
    assert {(r["role"], r["path"]) for r in rows} == {("text", "a.json"), ("annotations", "b.csv")}
    assert built.stats["text"] == {"files": 1, "bytes": 2, "ignored": 1}
    with pytest.raises(StageError, match=r"text = .*gone: no such file or folder"):
        run_stage(IMPORT_FILES, ImportFilesSpec(), tmp_path / "c", text=at(tmp_path / "gone"))


@pytest.mark.skipif(not MINI.is_dir(), reason="real COCO sample not at hand")
def test_real_coco_with_default_settings(tmp_path: Path):
    inputs = {"images": at(MINI), **{role: at(MINI / role) for role in ("annotations", "vqa", "refer")}}
    raw = run_stage(IMPORT_RAW, ImportSpec(), tmp_path / "raw", **inputs)
    coco = run_stage(BUILD_COCO, CocoSpec(), tmp_path / "coco", raw=raw.artifact)
    told = json.loads((MINI / "stats.json").read_text())
    assert coco.stats["splits"] == {"train": told["train2017"]["images"], "validation": told["val2017"]["images"]}
    people = [a for path in (MINI / "annotations").glob("person_keypoints_*.json")
              for a in json.loads(path.read_text())["annotations"]]  # fmt: skip
    written = {kind: row["written"] for kind, row in coco.stats["records"].items()}
    assert written == {
        "image": 64,
        "object": told["train2017"]["instances"] + told["val2017"]["instances"],
        "caption": told["train2017"]["captions"] + told["val2017"]["captions"],
        "question": told["vqa"]["questions"],
        "pose": sum(1 for a in people if a["num_keypoints"]),
    }
    refcoco = run_stage(BUILD_REFCOCO, RefCocoSpec(), tmp_path / "refcoco", raw=raw.artifact)
    assert refcoco.stats["splits"] == {"validation": 3}
    assert refcoco.stats["records"]["ref"]["written"] == told["refcocog_refs"]
    (raw.out / "roots.json").write_text(json.dumps(_with_pickle_alone(tmp_path)))
    pickled = run_stage(BUILD_REFCOCO, RefCocoSpec(), tmp_path / "pickled", raw=raw.artifact)
    assert pickled.shards() == refcoco.shards()


def _with_pickle_alone(folder: Path) -> dict[str, str]:
    """Roots whose REFER folder holds the pickle but not the JSON."""
    shutil.copytree(MINI / "refer", folder / "refer")
    refs = folder / "refer" / "refcocog" / "refs(google).json"
    refs.parent.chmod(0o755)
    refs.unlink()
    return {"images": str(MINI), "refer": str(folder / "refer")}
