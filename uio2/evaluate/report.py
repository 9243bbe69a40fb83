"""The report stage: one self-contained HTML page that shows how good a checkpoint is, and where it came from.

The page loads nothing from anywhere: styles are inline, pictures are data URIs, charts are SVG. It holds no date and
no path, so equal figures give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uio2.evaluate import charts, samples, tables
from uio2.evaluate import predictions as files
from uio2.evaluate.families import BOX_CLASSIFICATION, family_of
from uio2.evaluate.lineage import ancestors
from uio2.evaluate.media import SUFFIXES
from uio2.evaluate.pictures import Picture, load_pictures, picture_of
from uio2.evaluate.specs import ReportSpec
from uio2.evaluate.summary import PER_EXAMPLE, metric_rows, read_metrics
from uio2.pipeline.atomic import write_text
from uio2.pipeline.pages import page_templates
from uio2.pipeline.stage import StageContext, StageError
from uio2.tasks.families import find_task

REPORT = "report.html"
HISTORY = "history.jsonl"
TEMPLATE = "report.html.jinja"


def run(spec: ReportSpec, context: StageContext) -> Mapping[str, Any]:
    """Writes `report.html` from the inputs `score`, `predictions`, `train` and the datasets of the tasks, by name."""
    inputs = context.inputs
    metrics = read_metrics(inputs["score"].path)
    lines = _read_lines(inputs["score"].path / PER_EXAMPLE)
    sections: list[dict[str, Any]] = []
    wanted: dict[str, dict[str, set[int]]] = {}
    for done, (task, about) in enumerate(metrics["tasks"].items()):
        context.progress(done, len(metrics["tasks"]) + 2, f"examples of {task}")
        slices = metrics.get("slices", {}).get(task, {})
        section = _section(spec, context, task=task, about=about, slices=slices, lines=lines.get(task, {}))
        sections.append(section)
        chosen = section["chosen"]
        ids = {card.image_id for card in (*chosen.sample, *chosen.best, *chosen.worst)}
        wanted.setdefault(section["dataset"], {}).setdefault(about["split"], set()).update(ids)
    context.progress(len(sections), len(sections) + 2, "pictures")
    pictures = load_pictures(inputs, wanted=wanted, max_side=spec.max_image_side)
    curves = charts.read_history(inputs["train"].path / HISTORY) if "train" in inputs else {}
    page = render(
        TEMPLATE,
        title=spec.title or inputs["score"].name.partition("/")[0] or "Evaluation",
        checkpoint=metrics["checkpoint"],
        confidence=f"{metrics['confidence']:.0%}",
        figures=[(row, charts.whisker(value=row.value, low=row.low, high=row.high, baseline=row.baseline))
                 for row in metric_rows(metrics["metrics"])],
        sections=sections,
        pictures=pictures,
        loss=charts.line_chart(curves) if curves else None,
        lineage=ancestors(inputs),
    )  # fmt: skip
    path = context.out / REPORT
    write_text(path, page)
    context.progress(len(sections) + 2, len(sections) + 2, f"{len(page) // 1024} KiB, {len(pictures)} pictures")
    return {"report": REPORT, "bytes": path.stat().st_size, "pictures": len(pictures), "metrics": metrics["metrics"]}


def _section(
    spec: ReportSpec,
    context: StageContext,
    *,
    task: str,
    about: Mapping[str, Any],
    slices: Mapping[str, Any],
    lines: Mapping[int, Any],
) -> dict[str, Any]:
    """What the template needs for one task."""
    found = files.read_task(context.inputs["predictions"].path, task=task)
    rows = found.rows
    if len(lines) != len(rows):
        raise StageError(
            f"task {task!r}: {len(rows)} predictions but {len(lines)} scored lines; give `report` the predictions that "
            "`score` read"
        )
    family = family_of(task)
    scored = [samples.Scored(row, lines[row.index]) for row in rows]
    chosen = samples.choose(family, scored=scored, number=spec.num_examples)
    section = {
        "task": task,
        "family": family,
        "about": about,
        "dataset": find_task(task).dataset,
        "pictured": any(kind.startswith("image") for kind in find_task(task).takes),
        "chosen": chosen,
        "painted": _painted(chosen, folder=found.folder, max_side=spec.max_image_side),
        "confusion": None,
        "slices": tables.slice_tables(slices, metrics=family.metrics),
    }
    if family is BOX_CLASSIFICATION:
        section["confusion"] = tables.confusion(rows, max_classes=spec.max_classes)
    return section


def _painted(chosen: samples.Chosen, *, folder: Path, max_side: int) -> dict[str, Picture]:
    """Answers that are pictures, by their path."""
    cards = (*chosen.sample, *chosen.best, *chosen.worst)
    paths = {card.media for card in cards if card.media and card.media.endswith(SUFFIXES["image"])}
    return {path: picture_of((folder / path).read_bytes(), max_side=max_side) for path in sorted(paths)}


def _read_lines(path: Path) -> dict[str, dict[int, Any]]:
    """The lines of per_example.jsonl by task and index."""
    out: dict[str, dict[int, Any]] = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            value = json.loads(line)
            out.setdefault(value["task"], {})[value["index"]] = value
    return out


def render(template: str, **values: Any) -> str:
    """A page from one of the templates here."""
    environment = page_templates(__file__)
    return environment.get_template(template).render(**values)
