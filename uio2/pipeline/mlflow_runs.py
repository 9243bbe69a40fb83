"""What a record looks like in MLflow: run, parameters, tags, datasets, metrics, model version.

Only imported where MLflow is really written. Every method may be repeated: runs are found again by the tag
`uio2.attempt`, and metric points carry the time of the child, so writing one twice leaves one. Metrics of an execution
are sent in order, a batch after MLflow has answered the one before.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# Whoever calls tries again by itself; seven tries of MLflow's own take minutes, during which nothing else is told.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # creating the tables otherwise prints a page
logging.getLogger("alembic").setLevel(logging.WARNING)

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

from uio2.pipeline.artifact import RECORD  # noqa: E402
from uio2.pipeline.mlflow_database import database_uri, make_database  # noqa: E402
from uio2.pipeline.mlflow_models import RegisteredModels  # noqa: E402
from uio2.pipeline.mlflow_parents import ParentRuns  # noqa: E402
from uio2.pipeline.spool import Attempt, Spool  # noqa: E402
from uio2.pipeline.stage import flatten  # noqa: E402
from uio2.pipeline.store import Record, Store, locked  # noqa: E402

DIGEST_CHARS = 36  # MLflow's column; the full digest is in the dataset's source
BATCH = 500  # points per call; the limit is 1000
PARAM_CHARS = 6000


class MlflowRuns:
    """Writes runs of one store to one tracking URI."""

    def __init__(self, store: Store, *, uri: str):
        self._store = store
        self._marks = store.folder("cache", "mlflow")
        self._runs: dict[str, str] = {}  # attempt id -> run id
        self._places: dict[str, tuple[str, str]] = {}  # attempt id -> experiment id, run id
        self._spool = Spool(store)
        self._experiments: dict[str, str] = {}
        if uri == database_uri(store):
            make_database(store)
        with locked(store, "mlflow-tables"):  # two processes making the tables at once would collide
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self._client.search_experiments(max_results=1)
        self.parents = ParentRuns(store, client=self._client, experiment=self._experiment)

    def start(self, attempt: Attempt) -> None:
        """Opens a run for an execution that has begun."""
        tags = _tags(attempt) | self._parent(attempt.execution)
        self._run_of(attempt.id, name=attempt.name, started=attempt.started, recipe=attempt.recipe, tags=tags)

    def finish(self, attempt: Attempt, *, status: str, error: str, ended: float = 0.0) -> None:
        """Closes the run of an execution (`ended`: seconds since the epoch); a finished one is written from its
        record, if that is still there."""
        found = self._store.newest(attempt.name, version=attempt.fingerprint) if status == "FINISHED" else None
        if found and found[0]["attempt"] == attempt.id:
            self.write(*found)
            return
        self.start(attempt)
        run = self._runs[attempt.id]
        self.log_metrics(attempt.id, attempt.metrics)
        if error:
            self._client.set_tag(run, "uio2.error", error[:5000])
        self._client.set_terminated(run, status, end_time=int(ended * 1000) or None)

    def write(self, record: Record, path: Path) -> None:
        """Makes the finished run of a published artifact, or completes it."""
        attempt = record["attempt"]
        tags = {
            **_tags_of(record, fingerprint=record["fingerprint"], attempt=attempt),
            "uio2.digest": record["digest"],
            "uio2.commit": record.get("commit", ""),
            "uio2.uri": str(path),
            "mlflow.source.git.commit": record.get("commit", "").removesuffix("+changes"),
            **self._parent(record.get("execution", "")),
        }
        run = self._run_of(attempt, name=record["name"], started=record["started"], recipe=record, tags=tags)
        self._client.log_batch(run, tags=[RunTag(key, value) for key, value in tags.items() if value])
        self._client.log_inputs(run, list(_datasets(record, path)))
        self.log_metrics(attempt, record["metrics"])
        end = int((record["started"] + record["seconds"]) * 1000)
        stats = _numbers(record["stats"]) | {"seconds": record["seconds"], "peak_rss_mb": record["peak_rss_mb"]}
        self._log(run, [Metric(f"stats/{key}", value, end, 0) for key, value in stats.items()])
        for page in sorted(path.glob("*.html")):  # reports to look at; they load nothing
            self._client.log_artifact(run, str(page))
        self._client.log_artifact(run, str(path / RECORD))  # the operative configuration is in it; the data stays there
        self._client.set_terminated(run, "FINISHED", end_time=end)
        ids = self.known(attempt)
        (self._marks / record["fingerprint"][:16]).write_text(" ".join(ids) if ids else "")
        self._spool.remove(attempt)

    def known(self, attempt: str) -> tuple[str, str] | None:
        """Ids of the experiment and the run of an attempt this process has written."""
        return self._places.get(attempt)

    def reconcile(self) -> None:
        """Makes what is missing in MLflow from the records: finished runs, their parents, model versions, aliases."""
        with locked(self._store, "mlflow-reconcile"):
            for record, path in self._store.records():
                if not (self._marks / record["fingerprint"][:16]).exists():
                    self.write(record, path)
            self.parents.reconcile()
            RegisteredModels(self._store, client=self._client, run_of=self._run_of_record).reconcile()

    def close_dead(self) -> None:
        """Marks runs as KILLED whose runner died: nobody holds the lease, and the published artifact is another's."""
        published = {record["attempt"] for record, _ in self._store.records()}
        for experiment in self._client.search_experiments():
            for run in self._client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'"):
                tags = run.data.tags
                fingerprint = tags.get("uio2.fingerprint")
                if not fingerprint or tags.get("uio2.attempt") in published:
                    continue  # not ours, or finished: reconcile completes it
                lease = self._store.lease(fingerprint)
                if lease.try_acquire():
                    lease.release()
                    self._client.set_terminated(run.info.run_id, "KILLED")

    def log_metrics(self, attempt: str, file: str) -> None:
        """Passes on the lines a metric file gained since the last call, of this process or another."""
        run = self._runs.get(attempt)
        path = self._store.root / file
        if run is None or not path.exists():
            return
        offset, points = self._spool.offset(attempt), list[Metric]()
        with open(path, "rb") as f:
            f.seek(offset)
            for line in f:
                if not line.endswith(b"\n"):
                    break  # still being written, or cut short by a kill
                row = json.loads(line)
                more = [Metric(k, v, int(row["time"] * 1000), row["step"]) for k, v in row["values"].items()]
                if points and len(points) + len(more) > BATCH:
                    self._log(run, points)
                    self._spool.advance(attempt, offset)
                    points = []
                points += more
                offset += len(line)
        if points:
            self._log(run, points)
            self._spool.advance(attempt, offset)

    def _log(self, run: str, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + BATCH])

    def _run_of(
        self, attempt: str, *, name: str, started: float, recipe: Mapping[str, Any], tags: Mapping[str, str]
    ) -> str:
        """The run of an attempt, found by its tag or created."""
        if attempt in self._runs:
            return self._runs[attempt]
        pipeline, _, stage = name.partition("/")
        experiment = self._experiment(pipeline)
        found = self._client.search_runs([experiment], f"tags.`uio2.attempt` = '{attempt}'", max_results=1)
        if found:
            self._runs[attempt] = found[0].info.run_id
            self._places[attempt] = (experiment, self._runs[attempt])
            return self._runs[attempt]
        created = self._client.create_run(
            experiment, start_time=int(started * 1000), tags=dict(tags), run_name=f"{stage} {attempt[:8]}"
        )
        self._runs[attempt] = created.info.run_id
        self._places[attempt] = (experiment, self._runs[attempt])
        spec = {key: str(value)[:PARAM_CHARS] for key, value in flatten(recipe["spec"]).items() if key}
        params = [Param(key, value) for key, value in spec.items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(self._runs[attempt], params=params[start : start + 100])
        return self._runs[attempt]

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            with locked(self._store, "mlflow-experiments"):
                known = self._client.get_experiment_by_name(name)
                location = self._store.folder("mlflow-artifacts", name).as_uri()
                self._experiments[name] = (
                    known.experiment_id if known else self._client.create_experiment(name, artifact_location=location)
                )
        return self._experiments[name]

    def _run_of_record(self, record: Record) -> str:
        return self._run_of(record["attempt"], name=record["name"], started=record["started"], recipe=record, tags={})

    def _parent(self, execution: str) -> dict[str, str]:
        """The tag that puts a run below that of its execution."""
        run = self.parents.run_of(execution)
        return {"mlflow.parentRunId": run} if run else {}


def _tags(attempt: Attempt) -> dict[str, str]:
    return _tags_of(attempt.recipe, fingerprint=attempt.fingerprint, attempt=attempt.id)


def _tags_of(recipe: Mapping[str, Any], *, fingerprint: str, attempt: str) -> dict[str, str]:
    parents = {f"uio2.parent.{key}": value["digest"] for key, value in recipe["inputs"].items()}
    own = {key: recipe[key] for key in ("stage", "version", "code_version", "kind")}
    return {
        "uio2.fingerprint": fingerprint,
        "uio2.attempt": attempt,
        **{f"uio2.{key}": str(value) for key, value in own.items()},
        **parents,
    }


def _datasets(record: Record, path: Path) -> Iterator[DatasetInput]:
    """Inputs and output as MLflow datasets, told apart by the context tag."""
    for key, value in record["inputs"].items():
        yield _dataset(value, context=f"input:{key}")
    output = {key: record[key] for key in ("kind", "name", "version", "digest", "fingerprint")}
    yield _dataset({**output, "uri": str(path)}, context="output")


def _dataset(value: Mapping[str, Any], *, context: str) -> DatasetInput:
    dataset = Dataset(
        name=value["name"],
        digest=value["digest"][:DIGEST_CHARS],
        source_type="uio2",
        source=json.dumps(dict(value), sort_keys=True),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _numbers(stats: Mapping[str, Any]) -> dict[str, float]:
    flat = flatten(stats)
    return {k.replace("@", "_"): float(v) for k, v in flat.items() if isinstance(v, (int, float)) and k}
