"""Tables behind the figures: which class is taken for which, and how slices of the examples fare."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from uio2.evaluate.charts import Whisker, whisker
from uio2.evaluate.predictions import Prediction
from uio2.evaluate.slices import KINDS

# Classes without a row of their own, and answers without a column.
RARER, OTHER = "rarer", "other"
MAX_FIGURES = 2


@dataclasses.dataclass(frozen=True)
class ConfusionRow:
    """How often the true class `label` was given each name: counts in the order of the table's columns."""

    label: str
    counts: tuple[int, ...]
    shares: tuple[float, ...]
    total: int


@dataclasses.dataclass(frozen=True)
class Confusion:
    """True classes down, predicted classes across.

    Classes without a row of their own share the row `rarer`, whose column of that name counts the right answers; the
    column `other` counts answers that are none of the named classes.
    """

    columns: tuple[str, ...]
    rows: tuple[ConfusionRow, ...]


def confusion(rows: Sequence[Prediction], *, max_classes: int) -> Confusion:
    """The table of the `max_classes` most frequent true classes."""
    pairs = Counter((row.targets[0].lower(), row.text.strip().lower()) for row in rows)
    truth: Counter[str] = Counter()
    for (true, _), n in pairs.items():
        truth[true] += n
    frequent = sorted(truth, key=lambda name: (-truth[name], name))[:max_classes]
    names = sorted(frequent, key=_by_number)
    rare = [RARER] if len(truth) > len(names) else []
    columns = (*names, *rare, OTHER)
    folded: Counter[tuple[str, str]] = Counter()
    for (true, said), n in pairs.items():
        row = true if true in frequent else RARER
        right = row if said == true else OTHER
        folded[row, said if said in frequent else right] += n
    out = []
    for label in (*names, *rare):
        counts = tuple(folded[label, column] for column in columns)
        total = sum(counts)
        out.append(ConfusionRow(label, counts, tuple(round(n / total, 3) for n in counts), total))
    return Confusion(columns, tuple(out))


def _by_number(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


@dataclasses.dataclass(frozen=True)
class SliceTable:
    """The slices of one kind.

    Attributes:
      title: what they differ in.
      metrics: names of the figures.
      rows: name, number of examples, and a figure and its whisker per metric, None where the slice has none.
    """

    title: str
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[tuple[Mapping[str, float], Whisker] | None, ...]], ...]


def slice_tables(
    slices: Mapping[str, Sequence[Mapping[str, Any]]], *, metrics: Sequence[str]
) -> tuple[SliceTable, ...]:
    """The slices of a task as `metrics.json` holds them, each with its first two figures.

    Args:
      slices: kind -> slices with `slice`, `n` and `metrics`.
      metrics: the order of the figures.
    """
    tables = []
    for kind, found in slices.items():
        there = {name for entry in found for name in entry["metrics"]}
        shown = tuple(sorted(there, key=lambda name: (*metrics, name).index(name)))[:MAX_FIGURES]
        highest = {name: max(e["metrics"][name]["high"] for e in found if name in e["metrics"]) for name in shown}
        rows = tuple(
            (e["slice"], e["n"], tuple(_figure(e["metrics"].get(name), top=highest[name]) for name in shown))
            for e in found
        )
        tables.append(SliceTable(KINDS[kind][0], shown, rows))
    return tuple(tables)


def _figure(found: Mapping[str, float] | None, *, top: float) -> tuple[Mapping[str, float], Whisker] | None:
    if found is None:
        return None
    # All slices on one scale.
    placed = whisker(value=found["value"], low=found["low"], high=found["high"], baseline=None, most=top)
    return found, placed
