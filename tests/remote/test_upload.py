"""A finished dataset put on a store: the record comes last, a stopped upload goes on, nothing is overwritten."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs.export import check_free, export
from tests.remote.conftest import Stores, environment
from uio2.pipeline.artifact import RECORD, Artifact
from uio2.pipeline.places import remote
from uio2.pipeline.stage import StageError


def published(folder: Path, digest: str = "d" * 64) -> Artifact:
    """A dataset of three files with its record."""
    for name in ("d/1.0.0/d-train.tfrecord-00000-of-00001", "accounting.json", "dead_letters/a.jsonl"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
    (folder / RECORD).write_text(json.dumps({"digest": digest}))
    return Artifact("dataset", "datasets/build-d", "1", str(folder), digest)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_stopped_upload_goes_on_and_the_record_comes_last(stores: Stores, scheme: str, tmp_path: Path):
    artifact, base = published(tmp_path / "d"), f"{getattr(stores, scheme)}/out/d"
    last = tmp_path / "d" / "z.json"
    last.symlink_to(tmp_path / "gone")
    with pytest.raises(StageError, match=r"out = .*/out/d: cannot be written .*run the same command again"):
        export(artifact, f"{base}/")
    first = remote.listing(base)
    assert "accounting.json" in first
    assert RECORD not in first
    last.unlink()
    last.write_text("{}")
    assert export(artifact, base) == base
    found = remote.listing(base)
    local = {p.relative_to(artifact.path).as_posix() for p in artifact.path.rglob("*") if p.is_file()}
    assert found.keys() == local
    assert found["accounting.json"].modified == first["accounting.json"].modified
    for name in local:
        ranges = remote.RemoteRanges(f"{base}/{name}", size=found[name].size)
        assert ranges.read(0, ranges.size) == (artifact.path / name).read_bytes()
    export(artifact, base)
    assert remote.listing(base) == found


def test_nothing_on_a_store_is_overwritten(stores: Stores, tmp_path: Path):
    export(published(tmp_path / "d"), f"{stores.gs}/taken")
    with pytest.raises(StageError, match="holds a dataset with digest dddddddddddd, not eeeeeeeeeeee"):
        export(published(tmp_path / "e", digest="e" * 64), f"{stores.gs}/taken")
    with pytest.raises(StageError, match=r"holds other things \(annotations/"):
        check_free(f"{stores.gs}/coco")
    with pytest.raises(StageError, match=r"out = https://example.org/d: expected a place that every worker can write"):
        check_free("https://example.org/d")


@pytest.mark.slow
def test_build_from_a_store_to_a_store(stores: Stores, tmp_path: Path):
    """With the runner in this process; only its name differs from a build on Dataflow."""
    command = [sys.executable, "-m", "uio2.cli.main", "build", "coco", f"--images={stores.gs}/coco/images",
               f"--annotations={stores.gs}/coco/annotations",
               "--limit=4", "--num_shards=1", f"--work={stores.gs}/built-work", f"--out={stores.gs}/built",
               f"--store={tmp_path / 'store'}", "--runner=FnApiRunner"]  # fmt: skip
    done = subprocess.run(
        command,
        env={**environment(), "UIO2_MLFLOW": "off", "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = remote.listing(f"{stores.gs}/built")
    record = json.loads(remote.RemoteRanges(f"{stores.gs}/built/{RECORD}", size=found[RECORD].size).read(0, 1 << 20))
    assert record["stats"]["records"]["image"]["written"] == 8
    assert {"quality.html", "accounting.json", "coco_all/1.0.0/dataset_info.json"} < found.keys()
    assert not remote.file_system("gs").find(f"{stores.gs[5:]}/built-work")
