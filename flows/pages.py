"""What the Prefect page shows of a stage, in Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from uio2.pipeline import services
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.console import duration
from uio2.pipeline.execution import Execution
from uio2.pipeline.runner import StageRun
from uio2.pipeline.stage import Stage, flatten
from uio2.pipeline.store import read_record

LOG_LINES = 30
FIGURES = 40


def key_of(pipeline: str, stage: str) -> str:
    """An artifact key as Prefect allows it: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{pipeline}-{stage}".lower()).strip("-")


def stage_page(execution: Execution, stage: Stage, run: StageRun) -> str:
    """What a stage made, how long it took, its figures, and where to look further."""
    artifact = run.artifact
    record = read_record(artifact.path) or {}
    how = (
        "already published, reused" if run.reused else f"made in {duration(float(record.get('seconds', run.seconds)))}"
    )
    rows = [
        ("artifact", f"`{artifact.name}@{artifact.version}`"),
        ("how", how),
        ("digest", f"`{artifact.digest}`"),
        ("fingerprint", f"`{artifact.fingerprint}`"),
        ("peak memory", f"{record['peak_rss_mb']} MB" if "peak_rss_mb" in record else "not measured"),
        ("where", f"`{artifact.uri}`"),
        ("log", f"`{execution.runner.store.root / record['log']}`" if record.get("log") else "none"),
        *_links(execution, artifact, record),
    ]
    figures = [(key, value) for key, value in flatten(artifact.stats).items() if isinstance(value, (int, float, str))]
    text = f"# {stage.name}\n\n{stage.type.name}, code version {stage.type.code_version}\n\n" + _table(rows)
    return text + ("\n## Figures\n\n" + _table(figures[:FIGURES]) if figures else "")


def failed_page(execution: Execution, stage: Stage, error: Exception) -> str:
    """Why a stage failed and the last lines of its log."""
    log = newest_log(execution, stage)
    text = f"# {stage.name} failed\n\n{_block(str(error))}\n"
    if log is None:
        return text
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return text + f"\nThe last lines of `{log}`:\n\n" + _block("\n".join(lines))


def newest_log(execution: Execution, stage: Stage) -> Path | None:
    """The log of the stage's last attempt; None before the first."""
    folder = execution.runner.store.root / "logs" / execution.pipeline.name / stage.name
    logs = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
    return logs[-1] if logs else None


def _links(execution: Execution, artifact: Artifact, record: dict[str, Any]) -> list[tuple[str, str]]:
    pages = sorted(artifact.path.glob("*.html"))
    found = [("report", ", ".join(f"[{page.name}]({page.as_uri()})" for page in pages))] if pages else []
    mlflow = services.running(execution.runner.store, "mlflow")
    run = execution.runner.tracker.run_of(artifact.fingerprint, attempt=record.get("attempt", ""))
    if mlflow and run:
        experiment, run_id = run
        found.append(("MLflow run", f"[{run_id[:8]}]({mlflow.url}/#/experiments/{experiment}/runs/{run_id})"))
    return found


def _table(rows: list[tuple[str, Any]]) -> str:
    cells = [(key, str(value).replace("|", "\\|").replace("\n", " ")) for key, value in rows]
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in cells)


def _block(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())
