"""A stage in the pods of a JobSet: created, watched, its log followed, deleted at the end however that comes.

The store must be one that the pods see under the same path (a persistent volume of Filestore, NFS or the like): they
read the job and the inputs from it and leave output, checkpoints and metrics there, as a child process here would.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

from uio2.pipeline.launch import jobset_schema
from uio2.pipeline.launch.cluster import Cluster, ClusterError
from uio2.pipeline.launch.jobset import (
    CONTAINER,
    HOST_LABEL,
    INDEX_LABEL,
    LONGEST_NAME,
    NAME_LABEL,
    WORK_LABEL,
    JobSetSettings,
    render,
)
from uio2.pipeline.launch.launcher import Launch, process_jobs, with_errors
from uio2.pipeline.process import TAIL_LINES, Ended

TICK_S = 0.2
UNREACHABLE_S = 300.0  # an API server that is away for less (an upgrade, a network that hiccups) ends nothing


@dataclasses.dataclass(frozen=True)
class KubernetesJobSet:
    """Runs stages as JobSets of a cluster.

    Attributes:
      settings: the cluster's side.
      cluster: its API.
      poll_s: seconds between two looks at the status.
    """

    settings: JobSetSettings
    cluster: Cluster
    poll_s: float = 5.0

    def run(self, launch: Launch) -> Ended:
        """See `Launcher`. Raises ClusterError if the cluster refuses, or stays away."""
        process_jobs(launch.job, self.settings.processes, parent=0)
        manifest = manifest_of(self.settings, stage=launch.stage, attempt=launch.job.parent)
        name = manifest["metadata"]["name"]
        watch = _Watch(launch, self.cluster, name)
        self._clear(launch, manifest["metadata"]["labels"][WORK_LABEL])
        try:
            # Within the `try`: an answer that got lost may be that of a JobSet which is there now.
            self.cluster.create(manifest)
            launch.on_line(f"JobSet {name}: {self.settings.processes} pods on {self.settings.slices} slice(s) of "
                           f"{self.settings.slice.version} {self.settings.slice.topology}")  # fmt: skip
            return with_errors(self._wait(launch, name, watch), launch.job)
        finally:
            watch.stop()
            with contextlib.suppress(ClusterError):
                self.cluster.delete(name)

    def _clear(self, launch: Launch, work: str) -> None:
        """Ends what a runner that was killed left behind: two trainings must not write into the same scratch."""
        told: set[str] = set()
        while left := self.cluster.named({WORK_LABEL: work}):
            for name in set(left) - told:
                launch.on_line(f"deleting JobSet {name}, left by an earlier run")
                self.cluster.delete(name)
            told |= set(left)
            launch.on_wait()
            time.sleep(TICK_S)

    def _wait(self, launch: Launch, name: str, watch: _Watch) -> Ended:
        seen = time.monotonic()
        while True:
            try:
                status = self.cluster.status(name)
                watch.look(status)
                seen = time.monotonic()
                ended = _ended(status)
                if ended is not None:
                    watch.drain()
                    return Ended(ended[0], (*watch.tail, *([ended[1]] if ended[1] else [])))
            except ClusterError as error:
                if error.status or time.monotonic() - seen > UNREACHABLE_S:
                    raise
            until = time.monotonic() + self.poll_s
            while time.monotonic() < until:
                launch.on_wait()
                time.sleep(TICK_S)


def manifest_of(settings: JobSetSettings, *, stage: str, attempt: Path) -> dict[str, Any]:
    """The checked manifest of an attempt, whose folder is named `<fingerprint>-<attempt>`.

    It is called `uio2-<stage>-<attempt>`: attempts have names of their own, so does each JobSet.
    """
    work, _, number = attempt.name.partition("-")
    word = re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")
    name = f"uio2-{word[: LONGEST_NAME - 14]}-{number[-8:]}"
    manifest = render(settings, name=name, jobs=str(attempt), work=work)
    jobset_schema.check(manifest)
    return manifest


def _ended(status: dict[str, Any]) -> tuple[int, str] | None:
    for condition in status.get("conditions", []):
        if condition.get("status") == "True" and condition.get("type") in ("Completed", "Failed"):
            failed = condition["type"] == "Failed"
            return (1, f"JobSet failed: {condition.get('message', '')}") if failed else (0, "")
    return None


class _Watch:
    """Says what changes in a JobSet, and follows the log of its first pod over restarts."""

    def __init__(self, launch: Launch, cluster: Cluster, name: str):
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._launch, self._cluster, self._name = launch, cluster, name
        self._labels = {NAME_LABEL: name, INDEX_LABEL: "0", HOST_LABEL: "0"}
        self._said = ""
        self._stopped = threading.Event()
        self._follower: threading.Thread | None = None
        self._followed: set[str] = set()

    def look(self, status: dict[str, Any]) -> None:
        """Takes in a status."""
        jobs = status.get("replicatedJobsStatus", [{}])[0]
        text = f"ready {jobs.get('ready', 0)}, failed {jobs.get('failed', 0)}, restarts {status.get('restarts', 0)}"
        if text != self._said:
            self._said = text
            self._launch.on_line(f"JobSet {self._name}: {text}")
        if self._follower is None or not self._follower.is_alive():
            for pod in self._cluster.pods(self._labels):
                started = pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")
                if started and pod["metadata"]["uid"] not in self._followed:
                    self._followed.add(pod["metadata"]["uid"])
                    self._follower = threading.Thread(target=self._follow, args=(pod["metadata"]["name"],), daemon=True)
                    self._follower.start()
                    break

    def drain(self) -> None:
        """Waits a little for the last lines."""
        if self._follower is not None:
            self._follower.join(timeout=10)

    def stop(self) -> None:
        """Nothing more is said."""
        self._stopped.set()

    def _follow(self, pod: str) -> None:
        with contextlib.suppress(ClusterError, OSError), open(self._launch.log, "a", encoding="utf-8") as log:
            for line in self._cluster.follow(pod, container=CONTAINER):
                if self._stopped.is_set():
                    return
                self._take(line, log)

    def _take(self, line: str, log: Any) -> None:
        if line.startswith('{"done": '):
            with contextlib.suppress(ValueError, KeyError):
                event = json.loads(line)
                self._launch.on_progress(event["done"], event["total"], event["text"])
                return
        log.write(line + "\n")
        log.flush()
        self.tail.append(line)
        self._launch.on_line(line)
