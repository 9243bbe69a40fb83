"""The job file: all that a stage's child process needs, as JSON, and the result file it leaves.

The runner writes `job.json` into the attempt directory and starts `python -m uio2.cli.child job.json`; the child
writes `result.json` beside it. Nothing is pickled: the spec travels as JSON with the name of its class.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uio2.pipeline.artifact import Artifact
from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import Stage, StageError, spec_from_json, spec_to_json

METRICS = ".metrics.jsonl"  # ends the name of the file of metrics; what is before it names a folder beside it
EVENTS_VARIABLE = "UIO2_EVENTS_FD"  # the descriptor on which the child writes progress events, one JSON a line


@dataclasses.dataclass(frozen=True)
class Job:
    """One execution of a stage.

    Attributes:
      parent: process id of the runner; the child ends when that process does.
      name: artifact name, `<pipeline>/<stage>`.
      run: `"package.module:function"`.
      spec_class: `"package.module:Class"`.
      spec: the spec as JSON.
      inputs: fields of `Artifact` by input name.
      attempt: the attempt directory; output goes to `out/` in it, the result to `result.json`.
      work: resumable scratch.
      metrics: file that gets one JSON line per metric call.
      path: module search path of the runner.
    """

    parent: int
    name: str
    run: str
    spec_class: str
    spec: Any
    inputs: Mapping[str, Mapping[str, Any]]
    attempt: str
    work: str
    metrics: str
    path: tuple[str, ...]

    @classmethod
    def of(cls, stage: Stage, *, name: str, inputs: Mapping[str, Artifact], attempt: Path, work: Path, metrics: Path):
        """The job that runs `stage`, to be started by this process."""
        spec = stage.type.spec
        return cls(
            parent=os.getpid(),
            name=name,
            run=stage.type.run,
            spec_class=f"{spec.__module__}:{spec.__qualname__}",
            spec=spec_to_json(stage.spec),
            inputs={key: dataclasses.asdict(artifact) for key, artifact in inputs.items()},
            attempt=str(attempt),
            work=str(work),
            metrics=str(metrics),
            path=tuple(str(Path(entry or ".").absolute()) for entry in sys.path),
        )

    def write(self) -> Path:
        """Writes `job.json` into the attempt directory."""
        path = Path(self.attempt) / "job.json"
        path.write_text(json.dumps(dataclasses.asdict(self)))
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        """The job in a file; StageError if it is not one."""
        try:
            fields = json.loads(path.read_text())
            return cls(**{**fields, "path": tuple(fields["path"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StageError(f"{path} is not a job file ({error}); it is written by `uio2 run`") from error

    def load_spec(self) -> Any:
        """Imports the spec class and rebuilds the spec."""
        module, _, name = self.spec_class.partition(":")
        return spec_from_json(getattr(importlib.import_module(module), name), self.spec)

    def load_inputs(self) -> dict[str, Artifact]:
        """The input artifacts by name."""
        return {key: Artifact(**fields) for key, fields in self.inputs.items()}


@dataclasses.dataclass(frozen=True)
class Result:
    """What the child says at its end: `stats` if it went well, else one `error` message and a `traceback`."""

    stats: Mapping[str, Any] | None = None
    error: str = ""
    traceback: str = ""
    peak_rss_mb: int = 0

    def write(self, attempt: Path) -> None:
        """Writes `result.json` through a rename."""
        write_text(attempt / "result.json", json.dumps(dataclasses.asdict(self), allow_nan=False))

    @classmethod
    def read(cls, attempt: Path) -> Result | None:
        """The result in an attempt directory; None if the child left none."""
        try:
            return cls(**json.loads((attempt / "result.json").read_text()))
        except FileNotFoundError:
            return None
