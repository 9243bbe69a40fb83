"""MLflow: one run per stage execution, written behind the running stage and repaired from the records.

The records in the store are the truth. A `Tracker` only mirrors them: it works in a thread of its own (importing
MLflow costs 4 s, making its tables 3 to 20 s, both while a stage runs), and when MLflow fails it says so once and the
pipeline goes on; `reconcile` makes the missing runs the next time. Each artifact that has its run gets a file
`cache/mlflow/<fp16>` with the ids of experiment and run, so asking "is everything mirrored?" imports nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uio2.pipeline import accounts, registry
from uio2.pipeline.console import Console
from uio2.pipeline.store import Store

POLL_S = 10.0  # how often metrics of a running stage are passed on
SETTING = "UIO2_MLFLOW"  # "off" turns tracking off; a tracking URI replaces the SQLite file in the store


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One execution of a stage, from its start on.

    Attributes:
      id: name of the attempt directory, unique.
      fingerprint: of the stage.
      name: artifact name, `<pipeline>/<stage>`.
      started: seconds since the epoch.
      log, metrics: files, relative to the store.
      recipe: kind, version, spec, inputs ... as in the record.
      execution: id of the execution it is a part of; "" for none.
    """

    id: str
    fingerprint: str
    name: str
    started: float
    log: str
    metrics: str
    recipe: Mapping[str, Any]
    execution: str = ""


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
    return setting or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{store.root / 'mlflow.db'}"


def unmirrored(store: Store) -> bool:
    """Whether MLflow lacks something (and tracking is on): a finished run, an execution that ended, or an alias."""
    if not tracking_uri(store):
        return False
    marks = store.root / "cache" / "mlflow"
    if any(not (marks / record["fingerprint"][:16]).exists() for record, _ in store.records()):
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
    """Hands events to a thread that owns the MLflow client."""

    def __init__(self, store: Store, *, uri: str, pipeline: str, console: Console):
        self._store = store
        self._uri = uri
        self._pipeline = pipeline
        self._console = console
        self._events: queue.Queue[tuple | None] = queue.Queue()
        self._runs: Any = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def begin(self, attempt: Attempt) -> None:
        self._events.put(("begin", attempt))

    def end(self, attempt: Attempt, status: str, *, error: str = "") -> None:
        self._events.put(("end", attempt, status, error))

    def execution(self, execution: str) -> None:
        self._events.put(("execution", execution))

    def run_of(self, fingerprint: str, *, attempt: str) -> tuple[str, str] | None:
        if self._runs and (known := self._runs.known(attempt)):
            return known
        mark = self._store.root / "cache" / "mlflow" / fingerprint[:16]
        words = mark.read_text().split() if mark.exists() else []
        return (words[0], words[1]) if len(words) == 2 else None

    def close(self) -> None:
        self._events.put(None)
        self._thread.join(timeout=2)
        if self._thread.is_alive():
            self._console.line("mlflow", "writing the last records")
            self._thread.join(timeout=180)

    def _work(self) -> None:
        try:
            from uio2.pipeline.mlflow_runs import MlflowRuns

            runs = self._runs = MlflowRuns(self._store, uri=self._uri)
            runs.close_dead()
            self._serve(runs)
            runs.close_dead()  # again: at the start, the stage run anew held the lease of its dead predecessor
            runs.reconcile()
        except Exception as error:  # the named boundary: MLflow never stops a pipeline
            text = (str(error).splitlines() or [""])[0]
            self._console.line("mlflow", f"not written ({type(error).__name__}: {text}); the next run repairs it")

    def _serve(self, runs: Any) -> None:
        open_attempts: dict[str, Attempt] = {}
        while True:
            try:
                event = self._events.get(timeout=POLL_S)
            except queue.Empty:
                for attempt in open_attempts.values():
                    runs.log_metrics(attempt.id, attempt.metrics)
                continue
            if event is None:
                return
            attempt = event[1]
            if event[0] == "execution":
                runs.parents.write(attempt)
            elif event[0] == "begin":
                open_attempts[attempt.id] = attempt
                runs.start(attempt)
            else:
                open_attempts.pop(attempt.id, None)
                runs.finish(attempt, status=event[2], error=event[3])
