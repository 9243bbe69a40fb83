"""Geometry of the report's charts; the template draws it, so every label passes the template's escaping.

Plain SVG rather than a plotting library: the page stays small, follows the reader's light or dark theme and is equal
byte for byte between runs.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

MAX_SERIES = 5
MAX_POINTS = 400


@dataclasses.dataclass(frozen=True)
class Tick:
    """A mark on an axis: position in the chart's units and its label."""

    at: float
    label: str


@dataclasses.dataclass(frozen=True)
class Series:
    """A line: name, SVG path data, last value as text."""

    name: str
    path: str
    last: str


@dataclasses.dataclass(frozen=True)
class LineChart:
    """A chart of lines over training steps, drawn in a box of width x height with the plot inside the margins."""

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[Series, ...]


@dataclasses.dataclass(frozen=True)
class Whisker:
    """One metric on a 0..100 scale: interval, value and baseline, None where there is none."""

    low: float
    high: float
    value: float
    baseline: float | None


def whisker(*, value: float, low: float, high: float, baseline: float | None, most: float = 0.0) -> Whisker:
    """Shares are drawn on 0..1, a figure that exceeds 1 (CIDEr, metres) on 0..10, one that exceeds 10 (degrees) on
    0..100; `most` is the largest of figures that stand below each other."""
    most = max(value, high, baseline or 0.0, most)
    top = next((top for top in (1.0, 10.0) if most <= top), 100.0)

    def placed(v: float) -> float:
        return round(100 * min(max(v, 0.0), top) / top, 2)

    return Whisker(placed(low), placed(high), placed(value), None if baseline is None else placed(baseline))


def read_history(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Loss curves by name from a checkpoint's `history.jsonl`: every numeric field with `loss` in its name."""
    curves: dict[str, list[tuple[float, float]]] = {}
    if not path.exists():
        return curves
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            step = row["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected one JSON object with `step`, got {line[:80]!r}"
            ) from error
        for name, value in row.items():
            if "loss" in name and isinstance(value, (int, float)) and math.isfinite(value):
                curves.setdefault(name, []).append((step, value))
    order = sorted(curves, key=lambda name: (name != "loss", name))
    return {name: curves[name] for name in order[:MAX_SERIES] if len(curves[name]) > 1}


def line_chart(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, width: int = 720, height: int = 260
) -> LineChart:
    """Lines on common linear axes; y starts at 0 when the smallest value lies in the lower half."""
    left, top, right, bottom = 46, 12, width - 14, height - 28
    steps = [x for points in curves.values() for x, _ in points]
    values = [y for points in curves.values() for _, y in points]
    first, last = min(steps), max(steps)
    # The first steps of a training run tower over the rest; the axis ends above all but the top hundredth.
    ceiling = sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]
    floor = 0.0 if min(values) < 0.5 * ceiling else min(values)
    x_marks, y_marks = _round_marks(first, last, 6), _round_marks(floor, ceiling, 5)
    ceiling = max(ceiling, y_marks[-1])

    def x_of(x: float) -> float:
        return left + (right - left) * (x - first) / ((last - first) or 1)

    def y_of(y: float) -> float:
        return bottom - (bottom - top) * (min(y, ceiling) - floor) / ((ceiling - floor) or 1)

    series = []
    for name, points in curves.items():
        kept = points[:: max(1, math.ceil(len(points) / MAX_POINTS))]
        kept = [*kept, points[-1]] if kept[-1] != points[-1] else kept
        path = "M" + " L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in kept)
        series.append(Series(name, path, f"{points[-1][1]:.3f}"))
    return LineChart(
        width, height, left, top, right, bottom,
        tuple(Tick(round(x_of(m), 1), _label(m)) for m in x_marks),
        tuple(Tick(round(y_of(m), 1), _label(m)) for m in y_marks),
        tuple(series),
    )  # fmt: skip


def _round_marks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers inside low..high."""
    span = (high - low) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    start = math.ceil(low / step - 1e-9)
    return [k * step for k in range(start, math.floor(high / step + 1e-9) + 1)] or [low]


def _label(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"
