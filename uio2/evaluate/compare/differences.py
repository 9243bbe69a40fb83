"""How two runs differ: settings, and figures with the significance of their difference on the same examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from uio2.evaluate.compare.runs import Run
from uio2.evaluate.paired import Delta, delta, example_scores

ABSENT = "(not there)"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting that is not the same in all runs; values in the order of the runs."""

    name: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Line:
    """One figure over all runs.

    Attributes:
      key: as in metrics.json.
      values: value, low and high of each run, None where it has none.
      deltas: of each run but the first; None where examples alone have no such score, or none are shared.
      less_is_better: an error.
    """

    key: str
    values: tuple[tuple[float, float, float] | None, ...]
    deltas: tuple[Delta | None, ...]
    less_is_better: bool

    def verdict(self, run: int) -> str:
        """`better`, `worse` or `` for run 1, 2, ... against the first."""
        delta = self.deltas[run - 1]
        if delta is None or not delta.significant:
            return ""
        return "better" if (delta.value > 0) != self.less_is_better else "worse"


def settings(runs: Sequence[Run]) -> list[Setting]:
    """Settings that differ, by name."""
    names = sorted({name for run in runs for name in run.recipe})
    rows = [(name, [run.recipe.get(name, ABSENT) for run in runs]) for name in names]
    return [Setting(name, tuple(map(str, values))) for name, values in rows if any(v != values[0] for v in values)]


def lines(runs: Sequence[Run]) -> list[Line]:
    """Every figure that any run has, in the order in which the runs list them."""
    keys = list(dict.fromkeys(key for run in runs for key in run.rows))
    scores = [example_scores(run.score.path) for run in runs]
    out = []
    for key in keys:
        rows = [run.rows.get(key) for run in runs]
        out.append(Line(
            key=key,
            values=tuple((row.value, row.low, row.high) if row else None for row in rows),
            deltas=tuple(delta(scores[0].get(key, {}), other.get(key, {}), name=key) for other in scores[1:]),
            less_is_better=any(row.less_is_better for row in rows if row),
        ))  # fmt: skip
    return out
