"""A dataset of the hub by name, from a hub that serves one on this machine."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pyarrow
import pyarrow.parquet
import pytest

from beam_jobs.specs import BUILD_INSTRUCTIONS, IMPORT_FILES, ImportFilesSpec, InstructionsSpec
from tests.beam_jobs.conftest import run_stage
from tests.remote.test_builds import source
from uio2.pipeline.places import remote
from uio2.pipeline.sources import source_digest

ROWS = [{"instruction": f"Say {n}.", "input": "", "output": str(n)} for n in range(30)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


FILES = {"README.md": b"# A dataset", "data/train-00000-of-00001.parquet": _parquet()}


class Hub(http.server.BaseHTTPRequestHandler):
    """`datasets/lab/alpaca` with `FILES`; answers as the hub's interface does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        name = path.partition(f"/resolve/{'main' if '/main/' in path else COMMIT}/")[2]
        if path.startswith("/api/datasets/lab/alpaca/tree/"):
            self._json([_entry(name) for name in FILES])
        elif path.startswith("/api/datasets/lab/alpaca"):
            siblings = [{"rfilename": name} for name in FILES]
            self._json({"id": "lab/alpaca", "sha": COMMIT, "private": False, "siblings": siblings, "tags": []})
        elif path.startswith("/datasets/lab/alpaca/resolve/") and name in FILES:
            start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            data = FILES[name][int(start) : int(end) + 1 if end else None]
            self._answer(data, status=206 if "Range" in self.headers else 200)
        else:
            self._answer(b"{}", status=404, error="RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._json([_entry(name) for name in FILES if name in unquote(asked)])

    def _json(self, value: object) -> None:
        self._answer(json.dumps(value).encode())

    def _answer(self, body: bytes, *, status: int = 200, error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


def _entry(name: str) -> dict[str, object]:
    sha, size = hashlib.sha256(FILES[name]).hexdigest(), len(FILES[name])
    large = {"lfs": {"oid": sha, "size": size, "pointerSize": 130}} if name.endswith(".parquet") else {}
    return {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(FILES[name]).hexdigest(), **large}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    remote.file_system.cache_clear()
    yield "hf://datasets/lab/alpaca"
    remote.file_system.cache_clear()
    server.shutdown()


def test_a_dataset_is_built_by_its_name_and_known_by_the_hubs_checksums(hub: str, tmp_path: Path):
    built = {}
    (tmp_path / "copy" / "data").mkdir(parents=True)
    for name, data in FILES.items():
        (tmp_path / "copy" / name).write_bytes(data)
    for place in (hub, str(tmp_path / "copy")):
        folder = tmp_path / f"built{len(built)}"
        raw = run_stage(IMPORT_FILES, ImportFilesSpec(), folder / "raw", text=source(place))
        built[place] = run_stage(BUILD_INSTRUCTIONS, InstructionsSpec(), folder / "built", raw=raw.artifact)
        manifest = [json.loads(line) for line in (raw.out / "manifest.jsonl").read_text().splitlines()]
        if place == hub:
            large = next(row for row in manifest if row["path"].endswith(".parquet"))
            assert large["checksum"] == "sha256:" + hashlib.sha256(_parquet()).hexdigest()
    assert built[hub].stats["records"]["instruction"]["written"] == 30
    assert built[hub].shards() == built[str(tmp_path / "copy")].shards()
    assert source_digest("hf://datasets/lab/absent") is None
