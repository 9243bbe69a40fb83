"""The last run of a pipeline: figures against baselines, stages, where the report is, how to open the pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from uio2.pipeline.artifact import ArtifactError
from uio2.pipeline.console import duration
from uio2.pipeline.execution import last_run
from uio2.pipeline.store import Store

METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"
FIELDS = ("value", "low", "high", "baseline", "n")


def summary(store: Store, pipeline: str) -> dict[str, Any]:
    """The account of the last run as JSON values: status, metrics, stages, report path."""
    account = last_run(store, pipeline)
    stages, metrics, report = [], {}, None
    for row in account["stages"]:
        artifact = store.find(row["fingerprint"], name=row["name"])
        stages.append({**row, "uri": artifact.uri if artifact else None})
        if artifact and (artifact.path / METRICS_FILE).exists():
            metrics = read_metrics(artifact.path / METRICS_FILE)
        if artifact and (artifact.path / REPORT_FILE).exists():
            report = str(artifact.path / REPORT_FILE)
    keys = ("pipeline", "status", "started", "updated", "planned")
    return {**{key: account[key] for key in keys}, "metrics": metrics, "report": report, "stages": stages}


def read_metrics(path: Path) -> dict[str, dict[str, Any]]:
    """metric -> `{value, low, high, baseline, n}`; ArtifactError if the file holds something else."""
    try:
        content = json.loads(path.read_text())
        rows = content.get("metrics", content)
        return {key: {field: row.get(field) for field in FIELDS} for key, row in rows.items()}
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"{path}: {error}; expected an object of metric -> {{{', '.join(FIELDS)}}}") from error


def print_summary(found: dict[str, Any], store: Store) -> None:
    """The summary for a person, on stdout."""
    from rich.console import Console

    console = Console()
    width = console.width if console.is_terminal else 120
    console = Console(width=width, highlight=False)
    console.print(_stage_table(found))
    if found["metrics"]:
        console.print(_metric_table(found["metrics"]))
    if found["report"]:
        console.print(f"report   {found['report']}", soft_wrap=True)
    option = "" if store.root == Store().root else f" --store {store.root}"
    console.print(
        f"pages    uio2 up{option}   (MLflow and Prefect; prints both addresses, stop with: uio2 down{option})"
    )


def _metric_table(metrics: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table("metric", title="metrics on validation", title_justify="left")
    for heading in ("value", "95% interval", "baseline", "n"):
        table.add_column(heading, justify="right")
    for key, row in metrics.items():
        interval = f"{_number(row['low'])} .. {_number(row['high'])}" if row["low"] is not None else ""
        baseline = "none" if row["baseline"] is None else _number(row["baseline"])
        table.add_row(key, _number(row["value"]), interval, baseline, str(row["n"] or ""))
    return table


def _stage_table(found: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("stage", "artifact", "digest", "made", title_justify="left")
    table.title = f"{found['pipeline']}: {found['status']}, {len(found['stages'])} of {len(found['planned'])} stages"
    for row in found["stages"]:
        made = "reused" if row["reused"] else duration(row["seconds"])
        table.add_row(row["stage"], f"{row['name']}@{row['version']}", row["digest"][:12], made)
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
