"""Running one stage: reuse what is published, else lease, run the child, publish.

`Runner.run` is the only way a stage runs, under Prefect or without it. Whatever dies at whatever moment, the store
holds either nothing or all of the output, and running again repairs the rest.
"""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uio2.pipeline import registry
from uio2.pipeline.artifact import SOURCE, Artifact
from uio2.pipeline.changes import differences
from uio2.pipeline.console import Console, Progress, duration
from uio2.pipeline.job import Job, Result
from uio2.pipeline.launch.launcher import Launch, Launcher, Local
from uio2.pipeline.process import PACKAGE_ROOT, Cancelled, Ended
from uio2.pipeline.stage import Stage, StageError, spec_to_json
from uio2.pipeline.store import Store, read_record
from uio2.pipeline.tracking import Attempt, Tracker


@dataclasses.dataclass(frozen=True)
class StageRun:
    """The outcome of `Runner.run`."""

    artifact: Artifact
    reused: bool
    seconds: float


class Runner:
    """Runs stages of one pipeline in one store."""

    def __init__(
        self,
        store: Store,
        *,
        pipeline: str,
        console: Console | None = None,
        tracker: Tracker | None = None,
        debug: bool = False,
        launchers: Mapping[str, Launcher] | None = None,
        strict: bool = False,
    ):
        """`launchers` says where stages of a type run, by the type's name; the rest runs in a child process here.

        With `strict`, a version whose recipe is another than that of the newest artifact of the same name and version
        is refused; without, it is told.
        """
        self.store = store.prepare()
        self.pipeline = pipeline
        self.console = console or Console()
        self.tracker = tracker or Tracker()
        self.debug = debug
        self.launchers = dict(launchers or {})
        self.strict = strict
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ends the running stages soon, from any thread; their `run` raises Cancelled."""
        self._cancelled.set()

    def run(self, stage: Stage, inputs: Mapping[str, Artifact], *, execution: str = "") -> StageRun:
        """Returns the published output of `stage` for these inputs, running it if there is none.

        `execution` is the id of what it is run for, noted in the record.

        Raises StageError with the child's message if it fails, Cancelled after `cancel`.
        """
        started = time.monotonic()
        missing = stage.inputs.keys() ^ inputs.keys()
        if missing:
            raise StageError(f"stage {stage.name}: inputs {sorted(inputs)} given, {sorted(stage.inputs)} declared")
        name = f"{self.pipeline}/{stage.name}"
        fingerprint = stage.fingerprint({key: artifact.digest for key, artifact in inputs.items()})
        found = published(self.store, fingerprint, name=name, inputs=inputs)
        if found is None:
            lease = self.store.lease(fingerprint)
            lease.acquire(waiting=lambda holder: self._say(stage, f"waiting for {holder}"), check=self._check)
            with lease:
                found = published(self.store, fingerprint, name=name, inputs=inputs)
                if found is None:
                    self._check_version(stage, inputs, name=name)
                    artifact = self._execute(
                        stage, inputs, name=name, fingerprint=fingerprint, keep=lease.descriptor, execution=execution
                    )
                    return StageRun(artifact, reused=False, seconds=time.monotonic() - started)
        self._register(stage, found)
        self._say(stage, f"already published: {found.name}@{found.version} {found.fingerprint[:12]}, reused")
        return StageRun(found, reused=True, seconds=time.monotonic() - started)

    def _check_version(self, stage: Stage, inputs: Mapping[str, Artifact], *, name: str) -> None:
        """Tells, or with `strict` refuses, another recipe under a version that has one."""
        known = self.store.newest(name, version=stage.version)
        if known is None or known[0]["version"] != stage.version:
            return
        recipe = recipe_of(stage, inputs)
        changes = differences({**known[0], "inputs": {}}, {**recipe, "inputs": {}})
        if not changes:
            return
        text = f"{name}@{stage.version} was made by another recipe: " + "; ".join(map(str, changes))
        hint = "give this one a version of its own with --recipe_version"
        if self.strict:
            raise StageError(f"stage {stage.name}: {text}; {hint}, or leave out --strict")
        self._say(stage, f"{text} ({hint})")

    def _execute(
        self,
        stage: Stage,
        inputs: Mapping[str, Artifact],
        *,
        name: str,
        fingerprint: str,
        keep: int,
        execution: str,
    ) -> Artifact:
        directory = self.store.new_attempt(fingerprint)
        logs = self.store.folder("logs", *name.split("/"))
        attempt = Attempt(
            id=directory.name,
            fingerprint=fingerprint,
            name=name,
            started=round(time.time(), 3),
            log=str((logs / f"{directory.name}.log").relative_to(self.store.root)),
            metrics=str((logs / f"{directory.name}.metrics.jsonl").relative_to(self.store.root)),
            recipe=recipe_of(stage, inputs),
            execution=execution,
        )
        self._say(stage, f"started, fingerprint {fingerprint[:12]}")
        self.tracker.begin(attempt)
        try:
            record = self._run_child(stage, inputs, attempt=attempt, directory=directory, keep=keep)
            artifact = self.store.publish(directory, name=name, record=record, volatile=stage.type.volatile)
        except BaseException as error:
            stopped = not isinstance(error, Exception)
            self.tracker.end(attempt, "KILLED" if stopped else "FAILED", error="stopped" if stopped else str(error))
            raise
        self._register(stage, artifact)
        self.tracker.end(attempt, "FINISHED")
        took = duration(record["seconds"])
        self._say(stage, f"published {name}@{stage.version} digest {artifact.digest[:12]} in {took}")
        return artifact

    def _run_child(
        self, stage: Stage, inputs: Mapping[str, Artifact], *, attempt: Attempt, directory: Path, keep: int
    ) -> dict[str, Any]:
        """Runs the child and returns the record to publish; StageError if it failed."""
        started = time.monotonic()
        work = self.store.work(attempt.fingerprint)
        log = self.store.root / attempt.log
        metrics = self.store.root / attempt.metrics
        job = Job.of(stage, name=attempt.name, inputs=inputs, attempt=directory, work=work, metrics=metrics)
        progress = Progress(self.console, stage.name)

        def on_line(text: str) -> None:
            progress.spoke()
            self._say(stage, text)

        def on_wait() -> None:
            self._check()
            progress.heartbeat()

        launcher = self.launchers.get(stage.type.name) or Local()
        ended = launcher.run(
            Launch(
                stage.name, job.write(), log, self.store.folder("cache", "jax"), (keep,), on_line=on_line,
                on_progress=progress.report, on_wait=on_wait,
            )
        )  # fmt: skip
        result = Result.read(directory)
        if result is None or result.stats is None or ended.status != 0:
            raise StageError(self._failure(stage, ended, result, log))
        return {
            **attempt.recipe,
            "fingerprint": attempt.fingerprint,
            "attempt": attempt.id,
            "execution": attempt.execution,
            "started": attempt.started,
            "seconds": round(time.monotonic() - started, 1),
            "peak_rss_mb": result.peak_rss_mb,
            "log": attempt.log,
            "metrics": attempt.metrics,
            "stats": dict(result.stats),
            "commit": code_commit(),
        }

    def _failure(self, stage: Stage, ended: Ended, result: Result | None, log: Path) -> str:
        if result and result.error:
            with open(log, "a", encoding="utf-8") as f:
                f.write(result.traceback)
            text = f"stage {stage.name} failed: {result.error}"
            return f"{text}\n{result.traceback}" if self.debug else f"{text}\n  log: {log}"
        how = f"was killed by signal {-ended.status}" if ended.status < 0 else f"ended with status {ended.status}"
        if ended.status == -9:
            how += " (out of memory, or killed from outside); its scratch is kept, run again to resume"
        tail = "".join(f"\n  | {line}" for line in ended.tail)
        return f"stage {stage.name} {how}{tail}\n  log: {log}"

    def _register(self, stage: Stage, artifact: Artifact) -> None:
        """Gives a published model its version and alias; asked again for the same artifact, it changes nothing."""
        stats = artifact.stats
        if not stage.type.registers_model or not stats.get("accepted", stats.get("promoted", True)):
            return
        model = getattr(stage.spec, "model_name", "") or self.pipeline
        entry = registry.enter(self.store, model=model, artifact=artifact)
        name = f"{model}@{entry.version.number}"
        if entry.version.new:
            self._say(stage, f"registered model {name}")
        if entry.given:
            self._say(stage, f"{name} is the {entry.given}" + (f": {entry.reason}" if entry.reason else ""))

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("stopped")

    def _say(self, stage: Stage, text: str) -> None:
        self.console.line(stage.name, text)


def published(store: Store, fingerprint: str, *, name: str, inputs: Mapping[str, Artifact]) -> Artifact | None:
    """The published output for these inputs, or None.

    Raw files imported from a source that lay elsewhere then are passed over, so that the places noted in `roots.json`
    are written anew; the digest, and with it all that follows, stays the same.
    """
    found = store.find(fingerprint, name=name)
    places = {key: artifact.uri for key, artifact in inputs.items() if artifact.kind == SOURCE}
    if found is None or found.kind != "raw" or not places:
        return found
    record = read_record(found.path)
    noted = record["inputs"] if record else {}
    return found if all(noted.get(key, {}).get("path") == place for key, place in places.items()) else None


def recipe_of(stage: Stage, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """The part of a record that says how the artifact is made."""
    return {
        "kind": stage.type.kind,
        "version": stage.version,
        "stage": stage.type.name,
        "code_version": stage.type.code_version,
        "spec": spec_to_json(stage.spec),
        "registers_model": stage.type.registers_model,
        "inputs": {key: _reference(artifact) for key, artifact in inputs.items()},
    }


def _reference(artifact: Artifact) -> dict[str, str]:
    if artifact.kind == SOURCE:
        return {"kind": SOURCE, "name": artifact.name, "path": artifact.uri, "digest": artifact.digest}
    keys = ("kind", "name", "version", "digest", "fingerprint")
    return {key: getattr(artifact, key) for key in keys}


@functools.cache
def code_commit() -> str:
    """The git commit of this code, with `+changes` if the tree differs from it; empty outside a checkout."""
    if not (PACKAGE_ROOT / ".git").exists():
        return ""
    try:
        git = ["git", "-C", str(PACKAGE_ROOT)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "") if head.returncode == 0 else ""
