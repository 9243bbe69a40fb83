"""A server with the few calls of the Kubernetes API that launchers use; its pods are processes of this machine."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


class Pods:
    """The processes behind a JobSet, with what the controller and the kubelet would tell of them."""

    def __init__(self, manifest: dict[str, Any], folder: Path):
        self.manifest, self.deleted = manifest, False
        replicated = manifest["spec"]["replicatedJobs"][0]
        job = replicated["template"]["spec"]
        container = job["template"]["spec"]["containers"][0]
        self.logs: dict[tuple[int, int], Path] = {}
        self.processes: dict[tuple[int, int], subprocess.Popen] = {}
        for slice_index in range(replicated["replicas"]):
            for host in range(job["completions"]):
                values = {item["name"]: item.get("value", str(slice_index)) for item in container["env"]}
                log = folder / f"{manifest['metadata']['name']}-{slice_index}-{host}.log"
                self.logs[slice_index, host] = log
                self.processes[slice_index, host] = subprocess.Popen(
                    container["command"], cwd=REPOSITORY, stdout=log.open("wb"), stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **values, "JOB_COMPLETION_INDEX": str(host), "PYTHONPATH": str(REPOSITORY),
                         "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """As the JobSet controller keeps it."""
        codes = [process.poll() for process in self.processes.values()]
        failed = any(codes)
        done = failed or all(code == 0 for code in codes)
        what = {"type": "Failed" if failed else "Completed", "status": "True", "message": "jobset failed" * failed}
        counts = {"name": "slice", "ready": codes.count(None), "failed": int(failed)}
        return {"conditions": [what] if done else [], "restarts": 0, "replicatedJobsStatus": [counts]}

    def end(self) -> None:
        """Kills what runs."""
        self.deleted = True
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Api(http.server.ThreadingHTTPServer):
    """The server; `jobsets` holds all that were ever created, by name."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.jobsets: dict[str, Pods] = {}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Api

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _answer(self, value: Any, *, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _alive(self) -> dict[str, Pods]:
        return {name: pods for name, pods in self.server.jobsets.items() if not pods.deleted}

    def do_POST(self) -> None:
        manifest = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if manifest["metadata"]["namespace"] == "forbidden":
            self._answer({"message": 'jobsets is forbidden: User "x" cannot create'}, status=403)
            return
        self.server.jobsets[manifest["metadata"]["name"]] = Pods(manifest, self.server.folder)
        self._answer(manifest, status=201)

    def do_DELETE(self) -> None:
        name = self.path.rpartition("/")[2]
        if name not in self._alive():
            self._answer({"message": f'jobsets "{name}" not found'}, status=404)
            return
        self.server.jobsets[name].end()
        self._answer({})

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        options = urllib.parse.parse_qs(query)
        labels = dict(item.split("=") for item in options.get("labelSelector", [""])[0].split(",") if item)
        if path.endswith("/jobsets"):
            found = [
                p.manifest for p in self._alive().values() if labels.items() <= p.manifest["metadata"]["labels"].items()
            ]
            self._answer({"items": found})
        elif path.endswith("/pods"):
            pods = self.server.jobsets[labels["jobset.sigs.k8s.io/jobset-name"]]
            name = f"{pods.manifest['metadata']['name']}-slice-0-0-abcde"
            self._answer({"items": [{"metadata": {"name": name, "uid": name}, "status": {"phase": "Running"}}]})
        elif path.endswith("/log"):
            self._log(self.server.jobsets[path.split("/")[-2].removesuffix("-slice-0-0-abcde")])
        else:
            pods = self.server.jobsets[path.rpartition("/")[2]]
            self._answer({"status": pods.status()})

    def _log(self, pods: Pods) -> None:
        self.send_response(200)
        self.end_headers()
        with pods.logs[0, 0].open("rb") as log:
            while True:
                ended = pods.processes[0, 0].poll() is not None
                self.wfile.write(log.read())
                self.wfile.flush()
                if ended:
                    return
                time.sleep(0.05)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Api]:
    """A running server; what its pods still do at the end is ended."""
    with Api(folder) as api:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        try:
            yield api
        finally:
            for pods in api.jobsets.values():
                pods.end()
            api.shutdown()
