"""A repository's name is downloaded: from a hub that serves one repository on this machine."""

import http.server
import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.model.checkpoints import SMALL, random_tree
from uio2.model.checkpoint import huggingface, t5x, tree

REPOSITORY = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """`lab/small` with the files of `folder`; everything else is not found. Answers as the hub's interface does."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def _answer(self, body: bytes, kind: str, *, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(json.dumps(value).encode(), "application/json", status=status)

    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        names = sorted(file.name for file in self.folder.iterdir())
        if path.startswith("/api/models/lab/small/tree/"):
            sizes = {name: (self.folder / name).stat().st_size for name in names}
            self._json([{"type": "file", "path": name, "size": size, "oid": name} for name, size in sizes.items()])
        elif path.startswith("/api/models/lab/small"):
            siblings = [{"rfilename": name} for name in names]
            self._json({"id": "lab/small", "sha": COMMIT, "private": False, "siblings": siblings, "tags": []})
        elif path.startswith("/lab/small/resolve/") and path.rpartition("/")[2] in names:
            name = path.rpartition("/")[2]
            headers = {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}
            self._answer((self.folder / name).read_bytes(), "application/octet-stream", headers=headers)
        else:
            self._answer(b"{}", "application/json", headers={"X-Error-Code": "RepoNotFound"}, status=404)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """(address, parameters of the model it serves)."""
    model, folder = t5x.from_tree(random_tree(SMALL), config=SMALL), tmp_path_factory.mktemp("hub") / "repository"
    huggingface.save(model, folder)
    (folder / "README.md").write_text("Not needed, not fetched.")
    handler = type("Handler", (Hub,), {"folder": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", tree.flatten(model)
    server.shutdown()


def load_from(address: str, repository: str, home: Path) -> subprocess.CompletedProcess:
    """Loads in a process of its own, because the client reads its settings when it is imported."""
    code = textwrap.dedent(f"""
        from uio2.model.checkpoint import huggingface, native
        native.save(huggingface.load({repository!r}), {str(home / "loaded")!r})
    """)
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "HF_ENDPOINT": address, "HF_HOME": str(home / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_a_repository_is_downloaded_once_and_loaded(hub, tmp_path):
    from uio2.model.checkpoint import native

    address, expected = hub
    done = load_from(address, "lab/small", tmp_path)
    assert done.returncode == 0, done.stderr
    found = tree.flatten(native.load(tmp_path / "loaded"))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    fetched = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert fetched == {"config.json", "model.safetensors"}


def test_a_repository_that_is_not_there_is_an_error_that_names_it(hub, tmp_path):
    done = load_from(hub[0], "lab/absent", tmp_path)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert "CheckpointError: lab/absent cannot be had from the hub" in last
    assert "check its name" in last
