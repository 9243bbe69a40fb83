"""How two runs differ: settings, and figures with the significance of their difference on the same examples."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uio2.evaluate.compare.runs import Run
from uio2.evaluate.families import key_prefixes
from uio2.tasks.metrics.bootstrap import bootstrap_mean

ABSENT = "(not there)"
FLIPS = 10_000
_BLOCK = 1000


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting that is not the same in all runs; values in the order of the runs."""

    name: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Delta:
    """A figure of a run against the same figure of the first run, on the examples that both have.

    Attributes:
      value: this run's mean minus the first's.
      low, high: 95% bootstrap interval of the mean of the differences.
      p: of a paired sign-flip test: how often random signs give a difference as large (Fisher's randomisation test).
      n: examples in common.
    """

    value: float
    low: float
    high: float
    p: float
    n: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out and p is below 0.05."""
        return self.p < 0.05 and not self.low <= 0 <= self.high


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
    scores = [_scores(run) for run in runs]
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


def _scores(run: Run) -> dict[str, dict[str, float]]:
    """Per-example scores by metric key and example id."""
    tasks = run.tasks()
    prefixes = {task: about["prefix"] for task, about in tasks.items()} or key_prefixes(list(tasks))
    found: dict[str, dict[str, float]] = {}
    for task in tasks:
        for example, line in run.examples(task).items():
            for metric, score in line["scores"].items():
                found.setdefault(f"{prefixes[task]}/{metric}", {})[example] = score
    return found


def delta(first: Mapping[str, float], other: Mapping[str, float], *, name: str) -> Delta | None:
    """The paired difference of two runs in one figure; None without shared examples."""
    shared = sorted(first.keys() & other.keys())
    if not shared:
        return None
    differences = np.array([other[example] - first[example] for example in shared])
    interval = bootstrap_mean(differences, name=f"delta/{name}")
    mean = float(differences.mean())
    return Delta(mean, interval.low, interval.high, sign_flip(differences, name=name), len(shared))


def sign_flip(differences: Any, *, name: str) -> float:
    """Two-sided p of a paired randomisation test of mean 0, with `FLIPS` draws that depend on the name alone."""
    values = np.asarray(differences, np.float64)
    values = values[values != 0]  # a tie is the same under either sign
    if not len(values):
        return 1.0
    rng = np.random.default_rng(np.frombuffer(hashlib.sha256(f"flip/{name}".encode()).digest(), np.uint32))
    observed, extreme = abs(values.sum()), 0
    for _ in range(FLIPS // _BLOCK):
        signs = rng.integers(0, 2, (_BLOCK, len(values)), np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ values) >= observed - 1e-12).sum())
    return (extreme + 1) / (FLIPS + 1)
