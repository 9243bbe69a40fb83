"""What MLflow has not been told yet, on disk: executions with how they ended, and how far their metrics were passed on.

An execution is noted before anything is sent and struck off when MLflow has all of it, so an outage, or the death of
whoever was sending, delays what is told and loses nothing. Its metrics are lines of a file; the place up to which they
were passed on moves forward after MLflow has answered. What was sent and not answered is sent again, which MLflow's
tables take as the same point: they know a point by run, name, step, time and value.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from uio2.pipeline.atomic import write_text
from uio2.pipeline.store import Store


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


@dataclasses.dataclass(frozen=True)
class Entry:
    """An execution and how it ended.

    Attributes:
      attempt: which.
      status: FINISHED (the record is published), FAILED or KILLED; empty while it runs, or if its runner died.
      error: why it failed.
      ended: seconds since the epoch.
    """

    attempt: Attempt
    status: str = ""
    error: str = ""
    ended: float = 0.0


class Spool:
    """The executions of a store that MLflow does not know whole."""

    def __init__(self, store: Store) -> None:
        self._folder = store.root / "cache" / "mlflow" / "open"

    def put(self, entry: Entry) -> None:
        """Notes an execution, or how it ended."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_text(self._folder / f"{entry.attempt.id}.json", json.dumps(dataclasses.asdict(entry)))

    def entries(self) -> list[Entry]:
        """All, the first to start first."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                value = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue  # struck off meanwhile
            found.append(Entry(**{**value, "attempt": Attempt(**value["attempt"])}))
        return sorted(found, key=lambda entry: entry.attempt.started)

    def __bool__(self) -> bool:
        return any(self._folder.glob("*.json"))

    def offset(self, attempt: str) -> int:
        """Bytes of its metric file that were passed on."""
        try:
            return int((self._folder / f"{attempt}.offset").read_text())
        except FileNotFoundError:
            return 0

    def advance(self, attempt: str, offset: int) -> None:
        """So many bytes were passed on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_text(self._folder / f"{attempt}.offset", str(offset))

    def remove(self, attempt: str) -> None:
        """MLflow has all of it."""
        for suffix in ("json", "offset"):
            (self._folder / f"{attempt}.{suffix}").unlink(missing_ok=True)
