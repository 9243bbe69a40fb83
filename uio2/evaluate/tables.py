"""Tables behind the figures: which class is taken for which, and how each kind of question fares."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from uio2.evaluate.predictions import Prediction

# Classes without a row of their own, and answers without a column.
RARER, OTHER = "rarer", "other"


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


@dataclasses.dataclass(frozen=True)
class Slice:
    """A kind of question: its first words, how many there are, and the mean score."""

    name: str
    n: int
    score: float


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


def question_slices(rows: Sequence[Prediction], *, scores: Sequence[float], max_slices: int) -> tuple[Slice, ...]:
    """Mean score by the first two words of the question, the most frequent kinds first."""
    groups: dict[str, list[float]] = {}
    for row, score in zip(rows, scores, strict=True):
        groups.setdefault(" ".join(row.question.lower().split()[:2]) or "(no question)", []).append(score)
    order = sorted(groups, key=lambda name: (-len(groups[name]), name))[:max_slices]
    return tuple(Slice(f"{name} ...", len(groups[name]), sum(groups[name]) / len(groups[name])) for name in order)
