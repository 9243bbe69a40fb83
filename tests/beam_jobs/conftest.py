"""Runs stages as the spine does, on the tiny COCO fixture, and reads results back through TFDS."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import StageContext, StageType

FIXTURE = Path(__file__).parents[1] / "fixtures" / "coco_tiny"
ROLES = ("images", "annotations", "vqa", "refer")


@dataclasses.dataclass(frozen=True)
class Built:
    """A stage's output, as a raw artifact for the next stage too."""

    out: Path
    work: Path
    stats: Mapping[str, Any]

    @property
    def artifact(self) -> Artifact:
        return at(self.out)

    def shards(self) -> dict[str, bytes]:
        """All published files by relative path."""
        return {p.relative_to(self.out).as_posix(): p.read_bytes() for p in sorted(self.out.rglob("*")) if p.is_file()}

    def letters(self) -> list[dict[str, Any]]:
        """All dead letters of the published dataset."""
        return read_letters(self.out / "dead_letters")

    def examples(self, split: str) -> list[dict[str, Any]]:
        """The split's examples as TFDS decodes them."""
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(str(self.out / self.stats["tfds_dir"]))
        return list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))


def at(path: Path) -> Artifact:
    """A folder as an input artifact."""
    return Artifact("raw", "test/raw", "1", str(path), "")


def read_letters(folder: Path) -> list[dict[str, Any]]:
    """All dead letters below a folder."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def run_stage(type_: StageType, spec: Any, folder: Path, **inputs: Artifact) -> Built:
    """Runs a stage with its output in `folder/out`; `folder/work` survives from an earlier call."""
    out, work = folder / "out", folder / "work"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    work.mkdir(exist_ok=True)
    stats = type_.load()(spec, StageContext(inputs, out, work, lambda *_: None, lambda *_: None))
    return Built(out, work, json.loads(json.dumps(stats)))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A private copy of the tiny COCO, to spoil."""
    shutil.copytree(FIXTURE, tmp_path / "raw")
    return tmp_path / "raw"


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Changes a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
