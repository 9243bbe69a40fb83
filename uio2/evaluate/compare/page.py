"""The page of a comparison: one HTML file that loads nothing; equal runs give equal bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uio2.evaluate import charts
from uio2.evaluate import predictions as files
from uio2.evaluate.compare.differences import Line, Setting
from uio2.evaluate.compare.runs import HISTORY, Run
from uio2.evaluate.families import Family, family_of
from uio2.evaluate.pictures import load_pictures
from uio2.evaluate.report import render
from uio2.evaluate.samples import Card, Scored, card_of
from uio2.pipeline.stage import StageError
from uio2.tasks.families import find_task

TEMPLATE = "compare.html.jinja"
MAX_SIDE = 240
EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Change:
    """An example that the last run answers better or worse than the first: both cards, and by how much."""

    first: Card
    last: Card
    gain: float


@dataclasses.dataclass(frozen=True)
class Section:
    """Wins and losses of one task between the first run and the last."""

    task: str
    family: Family
    dataset: str
    shared: int
    better: int
    worse: int
    wins: tuple[Change, ...]
    losses: tuple[Change, ...]


def sections(runs: Sequence[Run]) -> list[Section]:
    """One section for each task that the first and the last run share and whose examples can be ordered."""
    first, last = runs[0], runs[-1]
    shared = [task for task in first.tasks() if task in last.tasks()]
    return [_section(first, last, task=task) for task in shared if family_of(task).ranking]


def _section(first: Run, last: Run, *, task: str) -> Section:
    family = family_of(task)
    sides = [_scored(run, task) for run in (first, last)]
    sign = -1.0 if family.ranking in family.errors else 1.0
    both = sorted(sides[0].keys() & sides[1].keys())
    gains = {e: sign * (sides[1][e].score(family.ranking) - sides[0][e].score(family.ranking)) for e in both}

    def changes(order: list[str]) -> tuple[Change, ...]:
        return tuple(
            Change(card_of(family, scored=sides[0][e]), card_of(family, scored=sides[1][e]), gains[e]) for e in order
        )

    up = sorted((e for e in both if gains[e] > 0), key=lambda e: (-gains[e], e))
    down = sorted((e for e in both if gains[e] < 0), key=lambda e: (gains[e], e))
    return Section(
        task, family, find_task(task).dataset, len(both), len(up), len(down), changes(up[:EXAMPLES]),
        changes(down[:EXAMPLES]),
    )  # fmt: skip


def _scored(run: Run, task: str) -> dict[str, Scored]:
    lines = run.examples(task)
    try:
        return {
            row.example_id: Scored(row, lines[row.example_id])
            for row in files.read_task(run.predictions, task=task).rows
        }
    except KeyError as error:
        raise StageError(f"{run.label}: example {error} of {task} was predicted and not scored") from error


def page_of(runs: Sequence[Run], *, settings: Sequence[Setting], lines: Sequence[Line]) -> str:
    """The whole page."""
    found = sections(runs)
    wanted: dict[str, dict[str, set[int]]] = {}
    about = runs[0].tasks()
    for section in found:
        ids = {change.first.image_id for change in (*section.wins, *section.losses)}
        wanted.setdefault(section.dataset, {}).setdefault(about[section.task]["split"], set()).update(ids)
    curves = {run.label: points for run in runs if (points := _loss(run.checkpoint))}
    return render(
        TEMPLATE,
        runs=runs,
        settings=settings,
        lines=lines,
        sections=found,
        pictures=load_pictures(runs[0].datasets, wanted=wanted, max_side=MAX_SIDE),
        loss=charts.line_chart(curves) if curves else None,
    )


def _loss(checkpoint: Path | None) -> list[tuple[float, float]]:
    return charts.read_history(checkpoint / HISTORY).get("loss", []) if checkpoint else []


def as_json(runs: Sequence[Run], *, settings: Sequence[Setting], lines: Sequence[Line]) -> dict[str, Any]:
    """The same figures as plain values."""
    return {
        "runs": [{"reference": run.label, "score": run.score.name, "digest": run.score.digest} for run in runs],
        "settings": [dataclasses.asdict(setting) for setting in settings],
        "metrics": [
            dataclasses.asdict(line) | {"verdicts": [line.verdict(i) for i in range(1, len(runs))]} for line in lines
        ],
    }
