"""Runs stages as the spine does, on the tiny COCO fixture, and reads results back through TFDS."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import StageContext, StageType

FIXTURE = Path(__file__).parents[1] / "fixtures" / "coco_tiny"
ROLES = ("images", "annotations", "vqa", "refer")
SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")


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

    def reasons(self) -> dict[str, str]:
        """Why each dead letter is one, by key."""
        return {letter["key"]: letter["reason"] for letter in self.letters()}

    def check_counts(self) -> None:
        """Fails unless everything that came in was written, dropped or over the limit."""
        for kind, row in self.stats["records"].items():
            assert row["in"] == row["written"] + sum(row["dropped"].values()) + row["over_limit"], kind

    def examples(self, split: str) -> list[dict[str, Any]]:
        """The split's examples as TFDS decodes them."""
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(str(self.out / self.stats["tfds_dir"]))
        return list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))


def at(path: Path) -> Artifact:
    """A folder as an input artifact."""
    return Artifact("raw", "test/raw", "1", str(path), "")


def pointing(folder: Path, **roots: Path) -> Artifact:
    """A raw artifact in `folder` that points at files elsewhere, as `import` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "roots.json").write_text(json.dumps({role: str(path) for role, path in roots.items()}))
    return at(folder)


def lines(path: Path, rows: list[Any]) -> Path:
    """Writes JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def picture(path: Path, *, size: tuple[int, int] = (24, 16), colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    """Writes a plain image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


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
