"""Running the stages of a pipeline in order, and the account of the last run.

`runs/<pipeline>.json` in the store says which artifact each stage had in the last run, rewritten after every stage;
`uio2 show` reads it. It is an account, not a source of truth: the records are.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from uio2.pipeline import accounts
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.console import Progress
from uio2.pipeline.gin_config import operative_text
from uio2.pipeline.plan import CACHED, StagePlan, check_order, resolve_sources
from uio2.pipeline.runner import Runner, StageRun
from uio2.pipeline.stage import Pipeline, Source, Stage, UsageError
from uio2.pipeline.store import Store, write_json


class Execution:
    """One run of a pipeline, or of some of its stages.

    `run` does it all in order; a scheduler that decides order itself calls `run_stage`, each stage after its inputs.
    """

    def __init__(self, pipeline: Pipeline, runner: Runner, *, stages: Sequence[Stage] | None = None):
        check_order(pipeline)
        self.pipeline = pipeline
        self.runner = runner
        self.stages = tuple(pipeline.stages if stages is None else stages)
        # A part of a pipeline is no run of it: only whole runs are accounted for.
        self._whole = stages is None
        progress = Progress(runner.console, "sources")
        self._sources = resolve_sources(self.stages, store=runner.store, progress=progress.report)
        self._done: dict[str, StageRun] = {}
        self._lock = threading.Lock()
        self._started = round(time.time(), 3)
        self._status = ""
        self.id = accounts.new_id(pipeline.name)
        self._lease = accounts.lease_of(runner.store, self.id)
        runner.store.sweep()

    @property
    def done(self) -> Mapping[str, StageRun]:
        """What has finished so far, by stage name."""
        return dict(self._done)

    def run(self) -> dict[str, StageRun]:
        """Runs every stage in order; the first failure ends it."""
        self.account("running")
        try:
            for stage in self.stages:
                self.run_stage(stage)
        except BaseException as error:
            self.account("failed" if isinstance(error, Exception) else "stopped")
            raise
        self.account("finished")
        return self._done

    def run_stage(self, stage: Stage) -> StageRun:
        """Runs one stage, whose inputs must be done."""
        inputs: dict[str, Artifact] = {}
        for key, value in stage.inputs.items():
            inputs[key] = self._sources[value] if isinstance(value, Source) else self._done[value.name].artifact
        outcome = self.runner.run(stage, inputs, execution=self.id)
        with self._lock:
            self._done[stage.name] = outcome
        self.account("running")
        return outcome

    def account(self, status: str) -> None:
        """Rewrites the account of this execution, and if it is of all stages, that of the pipeline's last run."""
        store = self.runner.store
        with self._lock:
            if not self._status:
                self._lease.try_acquire()
            rows = {name: (run.artifact, run.reused, run.seconds) for name, run in self._done.items()}
            value = _account(self.pipeline, self.stages, status=status, started=self._started, rows=rows)
            accounts.write_account(store, self.id, value)
            if self._whole:
                write_json(store.folder("runs") / f"{self.pipeline.name}.json", value)
            before, self._status = self._status, status
            if status != accounts.RUNNING:
                self._lease.release()
                self._lease.path.unlink(missing_ok=True)
        if status != before:
            self.runner.tracker.execution(self.id)


def account_cached(store: Store, pipeline: Pipeline, plans: Sequence[StagePlan]) -> None:
    """The account of a run that found every stage published."""
    rows = {item.stage: (item.artifact, True, 0.0) for item in plans if item.status == CACHED}
    value = _account(pipeline, pipeline.stages, status="finished", started=round(time.time(), 3), rows=rows)
    write_json(store.folder("runs") / f"{pipeline.name}.json", value)


def last_run(store: Store, pipeline: str) -> dict[str, Any]:
    """The account of the last run; UsageError if there is none."""
    try:
        return json.loads((store.root / "runs" / f"{pipeline}.json").read_text())
    except FileNotFoundError as error:
        hint = f"run it with: uio2 run {pipeline}"
        raise UsageError(f"pipeline {pipeline} has not run in store {store.root}; {hint}") from error


def _account(
    pipeline: Pipeline,
    planned: Sequence[Stage],
    *,
    status: str,
    started: float,
    rows: Mapping[str, tuple[Any, bool, float]],
) -> dict[str, Any]:
    keys = ("kind", "name", "version", "digest", "fingerprint")
    stages = [
        {"stage": name, **{k: getattr(artifact, k) for k in keys}, "reused": reused, "seconds": round(seconds, 1)}
        for name, (artifact, reused, seconds) in rows.items()
    ]
    return {
        "pipeline": pipeline.name,
        "status": status,
        "started": started,
        "updated": round(time.time(), 3),
        "process": os.getpid(),
        "planned": [stage.name for stage in planned],
        "stages": stages,
        "config": operative_text(Pipeline(pipeline.name, tuple(planned))),
    }
