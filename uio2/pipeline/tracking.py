"""MLflow: one run per stage execution, written behind the running stage and repaired from the records.

The records in the store are the truth. A `Tracker` only mirrors them: it works in a thread of its own (importing
MLflow costs 4 s, making its tables 3 to 20 s, both while a stage runs). While MLflow does not answer, what there is to
tell waits on disk (`uio2.pipeline.spool`) and is passed on in order when it does, by this run or the next one;
`reconcile` makes runs that are missing altogether. Each artifact that has its run gets a file `cache/mlflow/<fp16>`
with the ids of experiment and run, so asking "is everything mirrored?" imports nothing.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from uio2.pipeline import accounts, registry
from uio2.pipeline.console import Console
from uio2.pipeline.mlflow_database import database_uri
from uio2.pipeline.spool import Attempt, Entry, Spool
from uio2.pipeline.store import Store, locked

POLL_S = 10.0  # how often metrics of a running stage are passed on
MOST_S = 60.0  # between two attempts to reach an MLflow that does not answer
SETTING = "UIO2_MLFLOW"  # "off" turns tracking off; a tracking URI replaces the SQLite file in the store


class Tracker:
    """A tracker that tracks nothing: for tests, and for `UIO2_MLFLOW=off`."""

    def begin(self, attempt: Attempt) -> None:
        """A stage has started."""

    def end(self, attempt: Attempt, status: str, *, error: str = "") -> None:
        """It has ended: FINISHED (the record is published), FAILED or KILLED."""

    def execution(self, execution: str) -> None:
        """An execution has begun or ended, as its account says."""

    def run_of(self, fingerprint: str, *, attempt: str) -> tuple[str, str] | None:
        """Experiment and run of a published artifact, if they are known yet."""
        return None

    def close(self) -> None:
        """Waits until everything is written."""


def tracking_uri(store: Store) -> str:
    """The setting, MLFLOW_TRACKING_URI, or the SQLite file in the store; empty if tracking is off."""
    setting = os.environ.get(SETTING, "")
    if setting.lower() in ("off", "0", "none"):
        return ""
    return setting or os.environ.get("MLFLOW_TRACKING_URI", "") or database_uri(store)


def unmirrored(store: Store) -> bool:
    """Whether MLflow lacks something (and tracking is on): a run, whole, of an attempt or an execution, or an alias."""
    if not tracking_uri(store):
        return False
    marks = store.root / "cache" / "mlflow"
    if Spool(store) or any(not (marks / record["fingerprint"][:16]).exists() for record, _ in store.records()):
        return True
    missing = [execution for execution in accounts.executions(store) if not (marks / execution).exists()]
    if any(accounts.ended(store, execution) != accounts.RUNNING for execution in missing):
        return True
    return any(
        _noted(marks / f"{m}.aliases") != registry.read_aliases(store, m).state() for m in registry.models(store)
    )


def _noted(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def open_tracker(store: Store, *, pipeline: str, console: Console) -> Tracker:
    """The tracker the settings ask for."""
    uri = tracking_uri(store)
    return MlflowTracker(store, uri=uri, pipeline=pipeline, console=console) if uri else Tracker()


class MlflowTracker(Tracker):
    """Notes what happens on disk, and wakes the thread that owns the MLflow client."""

    def __init__(self, store: Store, *, uri: str, pipeline: str, console: Console):
        self._store = store
        self._uri = uri
        self._pipeline = pipeline
        self._console = console
        self._spool = Spool(store)
        self._lock = threading.Lock()
        self._mine: dict[str, Entry] = {}
        self._executions: set[str] = set()
        self._wake, self._closing = threading.Event(), False
        self._failures = 0
        self._runs: Any = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def begin(self, attempt: Attempt) -> None:
        self._note(Entry(attempt))

    def end(self, attempt: Attempt, status: str, *, error: str = "") -> None:
        self._note(Entry(attempt, status, error, round(time.time(), 3)))

    def _note(self, entry: Entry) -> None:
        self._spool.put(entry)
        with self._lock:
            self._mine[entry.attempt.id] = entry
        self._wake.set()

    def execution(self, execution: str) -> None:
        with self._lock:
            self._executions.add(execution)
        self._wake.set()

    def run_of(self, fingerprint: str, *, attempt: str) -> tuple[str, str] | None:
        if self._runs and (known := self._runs.known(attempt)):
            return known
        mark = self._store.root / "cache" / "mlflow" / fingerprint[:16]
        words = mark.read_text().split() if mark.exists() else []
        return (words[0], words[1]) if len(words) == 2 else None

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=2)
        if self._thread.is_alive():
            self._console.line("mlflow", "writing the last records")
            self._thread.join(timeout=180)

    def _work(self) -> None:
        while True:
            self._wake.wait(timeout=min(POLL_S * 2**self._failures, MOST_S))
            self._wake.clear()
            closing = self._closing
            try:
                self._deliver(closing=closing)
            except Exception as error:  # the named boundary: MLflow never stops a pipeline
                self._failed(error, closing=closing)
            else:
                if self._failures:
                    self._console.line("mlflow", "is there again; what was kept is written")
                self._failures = 0
            if closing:
                return

    def _failed(self, error: Exception, *, closing: bool) -> None:
        text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if closing:
            self._console.line("mlflow", f"not written ({text}); the next run makes up for it")
        elif not self._failures:
            self._console.line("mlflow", f"does not take what it is told ({text}); it is kept, and told again")
        self._failures += 1

    def _deliver(self, *, closing: bool) -> None:
        """All that there is to tell by now; what fails is still noted."""
        if self._runs is None:
            from uio2.pipeline.mlflow_runs import MlflowRuns

            runs = MlflowRuns(self._store, uri=self._uri)
            self._adopt(runs)
            runs.close_dead()
            self._runs = runs
        with self._lock:
            mine, executions = list(self._mine.values()), sorted(self._executions)
        for execution in executions:
            self._runs.parents.write(execution)
            with self._lock:
                self._executions.discard(execution)
        for entry in mine:
            self._tell(self._runs, entry)
        if closing:
            self._adopt(self._runs)  # again: at the start, the stage run anew held the lease of its dead predecessor
            self._runs.close_dead()
            self._runs.reconcile()

    def _tell(self, runs: Any, entry: Entry) -> None:
        runs.start(entry.attempt)
        runs.log_metrics(entry.attempt.id, entry.attempt.metrics)
        if not entry.status:
            return
        runs.finish(entry.attempt, status=entry.status, error=entry.error, ended=entry.ended)
        with self._lock:
            self._mine.pop(entry.attempt.id, None)
        self._spool.remove(entry.attempt.id)

    def _adopt(self, runs: Any) -> None:
        """Tells what runners left that are gone: nobody holds the lease."""
        with locked(self._store, "mlflow-adopt"):
            for entry in self._spool.entries():
                attempt, lease = entry.attempt, self._store.lease(entry.attempt.fingerprint)
                if attempt.id in self._mine or not lease.try_acquire():
                    continue
                with lease:
                    self._tell(runs, entry if entry.status else self._ended(attempt))

    def _ended(self, attempt: Attempt) -> Entry:
        """How an execution ended whose runner did not live to say it."""
        published = {record["attempt"] for record, _ in self._store.records(name=attempt.name)}
        if attempt.id in published:
            return Entry(attempt, "FINISHED")
        metrics = self._store.root / attempt.metrics
        ended = metrics.stat().st_mtime if metrics.exists() else attempt.started
        return Entry(attempt, "KILLED", "stopped with its runner", ended)
