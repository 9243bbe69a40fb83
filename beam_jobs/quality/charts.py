"""Counts as bars: bins on a linear or logarithmic axis, one bar per split, as shares of the split.

Splits of different sizes can so be compared by eye; the page draws the bars with HTML and CSS alone.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping

from beam_jobs.quality.measures import Names, Numbers

BINS, MARKS = 24, 6
_TAIL_PER_CENT = 99
_STEPS = (1, 2, 5)


@dataclasses.dataclass(frozen=True)
class Bin:
    """One bin: what it holds, its mark below the axis ("" for none), and per split (count, height in 0..100)."""

    title: str
    mark: str
    bars: tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Bars of the splits, in the order of `splits`."""

    splits: tuple[str, ...]
    bins: tuple[Bin, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One name of a list: per split (count, width in 0..100)."""

    name: str
    bars: tuple[tuple[int, float], ...]


def histogram(numbers: Mapping[str, Numbers], *, scale: int = 1, log: bool = False) -> Histogram:
    """Bars of numbers by split.

    Args:
      numbers: by split, in units of 1 / `scale`.
      scale: what to divide by for people.
      log: whether bins are equal factors; else the last takes everything beyond the 99th per cent.
    """
    splits = tuple(numbers)
    merged = Numbers()
    for part in numbers.values():
        merged.merge(part)
    edges = _log_edges(merged) if log else _edges(merged, scale)
    counts = {split: [0] * len(edges) for split in splits}
    for split, part in numbers.items():
        for value, n in part.buckets.items():
            counts[split][max(0, bisect.bisect_right(edges, value) - 1)] += n
    shares = {s: [n / max(1, numbers[s].count) for n in counts[s]] for s in splits}
    top = max((share for s in splits for share in shares[s]), default=0.0) or 1.0
    every = max(1, math.ceil(len(edges) / MARKS))
    bins = []
    for i, low in enumerate(edges):
        bars = tuple((counts[s][i], round(100 * shares[s][i] / top, 1)) for s in splits)
        marked = math.log10(low).is_integer() if log else i % every == 0
        bins.append(Bin(_title(edges, i, scale, merged.most or 0), short(low / scale) if marked else "", bars))
    return Histogram(splits, tuple(bins))


def rows(names: Mapping[str, Names], *, most: int) -> tuple[list[Row], int]:
    """The most frequent names with their counts by split, as shares of the split; and how many more there are."""
    total: dict[str, int] = {}
    for part in names.values():
        for name, n in part.counts.items():
            total[name] = total.get(name, 0) + n
    order = sorted(total, key=lambda name: (-total[name], name))
    shares = {name: [part.counts.get(name, 0) / max(1, part.total) for part in names.values()] for name in order[:most]}
    top = max((s for values in shares.values() for s in values), default=0.0) or 1.0
    found = []
    for name in order[:most]:
        counts = [part.counts.get(name, 0) for part in names.values()]
        found.append(Row(name, tuple((n, round(100 * s / top, 1)) for n, s in zip(counts, shares[name], strict=True))))
    return found, len(order) - len(found)


def short(value: float) -> str:
    """A number in few characters."""
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}" if value >= 0.001 else f"{value:.0e}"


def _edges(numbers: Numbers, scale: int) -> list[int]:
    """Lower ends of bins of a round width; whole numbers get a bin each where they are few."""
    low, high = numbers.least or 0, max(numbers.quantile(_TAIL_PER_CENT), numbers.least or 0)
    if numbers.most is not None and numbers.most - low < high - low + 2:
        high = numbers.most
    width = _round_up((high - low + 1) / BINS) if scale == 1 else max(1, _round_up((high - low) / BINS))
    first = low // width * width
    return list(range(first, high + 1, width)) or [first]


def _log_edges(numbers: Numbers) -> list[int]:
    """Four bins per factor of ten, in the range there is; 0 falls into the first."""
    low, high = max(1, numbers.least or 1), max(1, numbers.most or 1)
    first, last = math.floor(4 * math.log10(low)), math.floor(4 * math.log10(high))
    return sorted({round(10 ** (k / 4)) for k in range(first, last + 1)})


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    power = 1
    while True:
        for step in _STEPS:
            if step * power >= width:
                return step * power
        power *= 10


def _title(edges: list[int], i: int, scale: int, most: int) -> str:
    """What a bin holds; the last one may hold everything beyond it."""
    width = edges[1] - edges[0] if len(edges) > 1 else 1
    after = edges[i + 1] if i + 1 < len(edges) else edges[i] + width
    if i == len(edges) - 1 and most >= after:
        return f"{short(edges[i] / scale)} and more"
    return (
        short(edges[i])
        if after - edges[i] == 1 and scale == 1
        else f"{short(edges[i] / scale)} to {short(after / scale)}"
    )
