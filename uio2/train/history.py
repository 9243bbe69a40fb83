"""The history of a training: one row per logged step, the same whether it was interrupted or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageContext
from uio2.train.checkpoints import Checkpoints
from uio2.train.evaluation_spec import TASK, TASK_FIGURES

if TYPE_CHECKING:
    from uio2.train.loop import Loop
    from uio2.train.meters import Meter

HISTORY = "history.jsonl"
GROUP = "group/"  # sums by task in what a step returns

Measure = Callable[[Mapping[str, float]], dict[str, float]]


class Log:
    """The rows of the history, where they go, and what else is said of a run."""

    def __init__(self, loop: Loop, context: StageContext, *, leads: bool, first: int) -> None:
        self._loop, self._context, self._leads = loop, context, leads
        self.rows: list[dict[str, float]] = []
        self._file: Any = None
        if leads:
            path = context.work / HISTORY
            self.rows = _read_history(path, up_to=first)
            write_text(path, history_text(self.rows))
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def last(self) -> dict[str, float] | None:
        """The last row, if there is one."""
        return self.rows[-1] if self.rows else None

    def step(self, done: int) -> None:
        """One more step."""
        if self._leads:
            loss = f" loss {self.rows[-1]['loss']:.4f}" if self.rows else ""
            self._context.progress(done, self._loop.steps, self._loop.label + loss)

    def row(self, done: int, row: dict[str, float], *, measured: Measure) -> None:
        """One more row; with it goes what was measured of its steps, which is no part of the history."""
        self.rows.append(row)
        found = measured(row)
        if self._leads:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            self._context.metric(done, {k: v for k, v in row.items() if k != "step"} | found)
            self.step(done)

    def note(self, done: int, values: Mapping[str, float]) -> None:
        """Figures that are measured and so no part of the history."""
        if self._leads:
            self._context.metric(done, values)

    def summary(self, checkpoints: Checkpoints, meter: Meter) -> None:
        """Says at the end how fast it was, and what checkpoints cost."""
        stalls, text = checkpoints.stalls, meter.text()
        if self._leads:
            print(text)
        if stalls and self._leads:
            print(f"{len(stalls)} checkpoints held training up for {sum(stalls) / len(stalls):.2f} s each, "
                  f"at most {max(stalls):.2f} s")  # fmt: skip


def group_means(sums: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """`task/<name>/{loss,accuracy}`: cross entropy and accuracy per token of the tasks that had any.

    Args:
      sums: of `group/...` arrays [groups], of the same steps.
      names: of the groups.
    """
    if not names or f"{GROUP}tokens" not in sums:
        return {}
    loss, right, tokens = (np.asarray(sums[GROUP + key]) for key in ("cross_ent_loss", "accuracy", "tokens"))
    found: dict[str, float] = {}
    for number in np.flatnonzero(tokens).tolist():
        name, count = names[number], float(tokens[number])
        values = (float(loss[number]) / count, float(right[number]) / count)
        found |= {f"{TASK}{name}/{key}": value for key, value in zip(TASK_FIGURES, values, strict=True)}
    return found


def _read_history(path: Path, *, up_to: int) -> list[dict[str, float]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if not line.endswith("}"):
            break  # the line a kill cut short
        rows.append(json.loads(line))
    return [row for row in rows if row["step"] <= up_to]


def history_text(rows: list[dict[str, float]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)
