"""Stores on this machine, with the tiny COCO on each: as a folder and as the zips that COCO is downloaded as."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.beam_jobs.conftest import FIXTURE
from uio2.pipeline.places import remote

REPOSITORY = Path(__file__).parents[2]
PIPES: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}


@dataclasses.dataclass(frozen=True)
class Stores:
    """What the servers hold: `folder` is what the web server shows and what was copied to `gs` and `s3`."""

    folder: Path
    gs: str
    s3: str
    web: str

    def put(self, name: str, data: bytes) -> None:
        """Puts a file on all three."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        for scheme, url in (("gs", self.gs), ("s3", self.s3)):
            remote.file_system(scheme).pipe_file(f"{url.partition('://')[2]}/{name}", data)


@pytest.fixture(scope="package")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """Runs the servers; the environment leads the clients to them."""
    folder = tmp_path_factory.mktemp("served")
    command = [sys.executable, "-m", "tests.remote.servers", str(folder)]
    with (
        subprocess.Popen(command, cwd=REPOSITORY, text=True, **PIPES) as process,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert process.stdout is not None
        at = json.loads(process.stdout.readline())
        environment = {
            "STORAGE_EMULATOR_HOST": at["gs"],
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "AWS_ENDPOINT_URL": at["s3"],
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for key, value in environment.items():
            patch.setenv(key, value)
        patch.setattr(remote, "PAUSE_S", 0.01)
        remote.file_system.cache_clear()
        remote.file_system("s3").mkdir("lab")
        found = Stores(folder, "gs://lab", "s3://lab", at["web"])
        for path in sorted(p for p in FIXTURE.rglob("*") if p.is_file()):
            found.put(f"coco/{path.relative_to(FIXTURE).as_posix()}", path.read_bytes())
        for name, files in _as_downloaded().items():
            found.put(f"zips/{name}", _zip(files))
        yield found
        remote.file_system.cache_clear()
        process.kill()


def _as_downloaded() -> dict[str, dict[str, Path]]:
    """The zips by name, with the files of each by member."""
    zips: dict[str, dict[str, Path]] = {}
    for path in sorted(FIXTURE.rglob("*")):
        role, _, name = path.relative_to(FIXTURE).as_posix().partition("/")
        if not path.is_file():
            continue
        if role == "images":
            zips.setdefault(f"images/{name.partition('/')[0]}.zip", {})[name] = path
        elif role == "annotations":
            zips.setdefault("annotations_trainval2017.zip", {})[f"annotations/{name}"] = path
        elif role == "vqa":
            zips.setdefault(f"vqa/{path.stem}.zip", {})[name] = path
        else:
            zips.setdefault("refer.zip", {})[name] = path
    return zips


def _zip(files: dict[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (name, path) in enumerate(files.items()):
            archive.write(path, name, zipfile.ZIP_DEFLATED if number % 2 == 0 else zipfile.ZIP_STORED)
    return buffer.getvalue()


def environment() -> dict[str, str]:
    """The environment that leads another process to the stores."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}
