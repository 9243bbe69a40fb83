"""Parent runs in MLflow: one for each execution, above the runs of its stages.

A parent carries the name of the pipeline, every setting of its stages as a parameter, their configuration as
`operative.gin`, how it ended, and the figures that its score stages found. Made from the accounts of executions
(`uio2.pipeline.accounts`), again and again the same one: it is found by the tag `uio2.run`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from uio2.pipeline import accounts
from uio2.pipeline.store import Store, locked

STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED", accounts.KILLED: "KILLED"}
PARAMS = 100  # of one call
PARAM_CHARS = 6000
SETTING = re.compile(r"^([^#\s=][^=]*?) = (.*)$", re.MULTILINE)
CONFIG = "operative.gin"
UNFIT = re.compile(r"[^\w.\-/ ]")  # what MLflow does not take in a key


class ParentRuns:
    """Writes parent runs of one store."""

    def __init__(self, store: Store, *, client: MlflowClient, experiment: Callable[[str], str]):
        """`experiment` gives the id of the experiment of a pipeline."""
        self._store = store
        self._client = client
        self._experiment = experiment
        self._runs: dict[str, str] = {}

    def run_of(self, execution: str) -> str | None:
        """The run of an execution, found or made; None where nothing is known of it."""
        if execution not in self._runs:
            account = accounts.read_account(self._store, execution) if execution else None
            if account is None:
                return None
            with locked(self._store, "mlflow-parents"):  # a reconciling process may ask at the same time
                self._runs[execution] = self._found(execution, account) or self._made(execution, account)
        return self._runs[execution]

    def write(self, execution: str) -> None:
        """Makes or completes the run of an execution; one that has ended is closed for good."""
        account = accounts.read_account(self._store, execution)
        run = self.run_of(execution)
        if account is None or run is None or account["status"] not in STATUS:
            return
        end = int(account["updated"] * 1000)
        figures = [Metric(key, value, end, 0) for key, value in self._figures(account).items()]
        if figures:
            self._client.log_batch(run, metrics=figures)
        self._client.set_tag(run, "uio2.stages", ", ".join(_said(row) for row in account["stages"]))
        self._client.set_terminated(run, STATUS[account["status"]], end_time=end)
        (self._store.folder("cache", "mlflow") / execution).write_text(account["status"])

    def reconcile(self) -> None:
        """Writes what has ended and is not written, killed executions included."""
        marks = self._store.folder("cache", "mlflow")
        for execution in accounts.executions(self._store):
            if not (marks / execution).exists() and accounts.ended(self._store, execution) in STATUS:
                self.write(execution)

    def _found(self, execution: str, account: Mapping[str, Any]) -> str | None:
        experiment = self._experiment(account["pipeline"])
        runs = self._client.search_runs([experiment], f"tags.`uio2.run` = '{execution}'", max_results=1)
        return runs[0].info.run_id if runs else None

    def _made(self, execution: str, account: Mapping[str, Any]) -> str:
        tags = {"uio2.run": execution, "uio2.pipeline": account["pipeline"]}
        run = self._client.create_run(
            self._experiment(account["pipeline"]),
            start_time=int(account["started"] * 1000),
            tags=tags,
            run_name=execution,
        ).info.run_id
        settings = SETTING.findall(account["config"])
        params = [Param("pipeline", account["pipeline"]), *(Param(fit_key(k), v[:PARAM_CHARS]) for k, v in settings)]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(run, params=params[start : start + PARAMS])
        self._client.log_text(run, account["config"], CONFIG)
        return run

    def _figures(self, account: Mapping[str, Any]) -> dict[str, float]:
        """What the score stages of the execution measured, reused ones included."""
        found: dict[str, float] = {}
        for row in account["stages"]:
            artifact = self._store.find(row["fingerprint"], name=row["name"]) if row["kind"] == "report" else None
            metrics = artifact.stats.get("metrics", {}) if artifact else {}
            found |= {fit_key(key): float(figure["value"]) for key, figure in metrics.items()}
        return found


def fit_key(key: str) -> str:
    """The key as MLflow takes it."""
    return UNFIT.sub("_", key)


def _said(row: Mapping[str, Any]) -> str:
    return f"{row['stage']} {'reused' if row['reused'] else 'made'}"
