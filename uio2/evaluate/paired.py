"""Two scores of the same examples: their difference in a figure, and whether it could be chance. Light: NumPy alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uio2.evaluate.summary import PER_EXAMPLE, read_metrics
from uio2.tasks.metrics.bootstrap import bootstrap_mean

FLIPS = 10_000
_BLOCK = 1000


@dataclasses.dataclass(frozen=True)
class Delta:
    """A figure of one score against the same figure of another, on the examples that both have.

    Attributes:
      value: this one's mean minus the other's.
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


def example_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Per-example scores of a score artifact, by metric key and example id."""
    prefixes = {task: about["prefix"] for task, about in read_metrics(folder)["tasks"].items()}
    found: dict[str, dict[str, float]] = {}
    with open(folder / PER_EXAMPLE, encoding="utf-8") as lines:
        for value in map(json.loads, lines):
            for metric, score in value["scores"].items():
                found.setdefault(f"{prefixes[value['task']]}/{metric}", {})[value["example_id"]] = score
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
