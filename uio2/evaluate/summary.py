"""The rows of the metric table, read from `metrics.json`; standard library only, so that `uio2 show` stays quick."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS = "metrics.json"
PER_EXAMPLE = "per_example.jsonl"


@dataclasses.dataclass(frozen=True)
class MetricRow:
    """One figure.

    Attributes:
      key: `<family>/<metric>`, for example `vqa/exact_match`.
      value, low, high: the figure and the ends of its interval.
      baseline: what the constant answer learned from the training split reaches on the same examples; None where
        there is none.
      n: examples behind it.
      less_is_better: an error.
    """

    key: str
    value: float
    low: float
    high: float
    baseline: float | None
    n: int
    less_is_better: bool = False

    @property
    def margin(self) -> float | None:
        """How much better than the baseline the worse end of the interval is; None without a baseline."""
        if self.baseline is None:
            return None
        return self.baseline - self.high if self.less_is_better else self.low - self.baseline

    @property
    def above_baseline(self) -> bool:
        """The whole interval is better than the baseline, or there is none."""
        return self.margin is None or self.margin > 0

    def cells(self) -> tuple[str, str, str, str, str]:
        """key, value, interval, baseline and n as text for a table."""
        return (
            self.key,
            f"{self.value:.3f}",
            f"{self.low:.3f} .. {self.high:.3f}",
            NO_BASELINE if self.baseline is None else f"{self.baseline:.3f}",
            str(self.n),
        )


NO_BASELINE = "none"
HEADINGS = ("metric", "value", "interval", "baseline", "n")


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of `metrics.json` in a score artifact; ValueError naming the file if it is not one."""
    path = folder / METRICS
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; give the folder that `uio2 score` wrote") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    metrics = value.get("metrics") if isinstance(value, dict) else None
    if not metrics:
        raise ValueError(f"{path} has no 'metrics'; give the folder that `uio2 score` wrote")
    return value


def metric_rows(metrics: Mapping[str, Mapping[str, Any]]) -> list[MetricRow]:
    """Rows in the order of `metrics` (the `metrics` member of metrics.json)."""
    return [
        MetricRow(
            key,
            **{f: m[f] for f in ("value", "low", "high", "baseline", "n")},
            less_is_better=m.get("less_is_better", False),
        )
        for key, m in metrics.items()
    ]


def read_rows(folder: Path) -> list[MetricRow]:
    """The rows of a score artifact."""
    return metric_rows(read_metrics(folder)["metrics"])
