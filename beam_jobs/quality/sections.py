"""Counts as sections of the page (charts, lists, a table of figures) and as plain values of `quality.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.quality import charts
from beam_jobs.quality.figures import MILLI, MILLION, Figures
from beam_jobs.quality.measures import Names, Numbers

TOP_JSON, TOP_SHORT, TOP_LONG = 100, 6, 30


@dataclasses.dataclass(frozen=True)
class _Quantity:
    """A counted quantity: its title, the section it is in, units per shown unit, whether it is drawn on a log axis."""

    title: str
    section: str
    scale: int = 1
    log: bool = False
    drawn: bool = True


QUANTITIES = {
    "width": _Quantity("width, pixels", "Pictures"),
    "height": _Quantity("height, pixels", "Pictures"),
    "boxes": _Quantity("boxes of a record", "Boxes"),
    "area": _Quantity("area of a box, % of the picture", "Boxes", scale=MILLION // 100, log=True),
    "texts": _Quantity("texts of a record", "Texts", drawn=False),
    "words": _Quantity("words of a text", "Texts"),
    "characters": _Quantity("characters of a text", "Texts", drawn=False),
    "seconds": _Quantity("seconds", "Clips", scale=MILLI),
    "frames": _Quantity("frames of a clip", "Clips"),
}
LISTS = {
    "size": ("size, pixels", "Pictures", TOP_SHORT),
    "format": ("format", "Pictures", TOP_SHORT),
    "pictures": ("stored pictures", "Pictures", TOP_SHORT),
    "classes": ("classes", "Classes", TOP_LONG),
    "blank": ("blank texts", "Texts", TOP_SHORT),
    "problems": ("remarks", "Remarks", TOP_SHORT),
}
ORDER = ("Remarks", "Pictures", "Boxes", "Classes", "Texts", "Clips")


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a section's table; values are texts in the unit of the title."""

    field: str
    title: str
    split: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Chart:
    field: str
    title: str
    bars: charts.Histogram


@dataclasses.dataclass(frozen=True)
class List:
    field: str
    title: str
    rows: tuple[charts.Row, ...]
    more: int
    cut: bool


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    charts: tuple[Chart, ...]
    lists: tuple[List, ...]
    lines: tuple[Line, ...]


def sections(figures: Figures, *, splits: Sequence[str], sound: str | None) -> list[Section]:
    """The sections that have anything in them, in a fixed order; `sound` is the field of clips."""
    numbers, names = _by_split(figures.numbers, splits, Numbers()), _by_split(figures.names, splits, Names())
    found: dict[str, tuple[list[Chart], list[List], list[Line]]] = {title: ([], [], []) for title in ORDER}
    for (what, field), parts in numbers.items():
        quantity = QUANTITIES[what]
        if not any(part.most for part in parts.values()):
            continue  # a field that is never filled
        drawn, _, lines = found[quantity.section]
        if quantity.drawn:
            drawn.append(Chart(field, quantity.title, charts.histogram(parts, scale=quantity.scale, log=quantity.log)))
        lines += [_line(field, quantity, split, part) for split, part in parts.items() if part.count]
    for (what, field), counts in names.items():
        title, section, most = LISTS[what]
        if what == "blank" and not any(("words", field) == key for key in numbers):
            continue
        rows, more = charts.rows(counts, most=most)
        cut = any(part.cut for part in counts.values())
        place = "Clips" if section == "Pictures" and field == sound else section
        found[place][1].append(List(field, title, tuple(rows), more, cut))
    return [
        Section(title, tuple(drawn), tuple(lists), tuple(lines))
        for title, (drawn, lists, lines) in found.items()
        if drawn or lists or lines
    ]


def values(figures: Figures, *, splits: Sequence[str]) -> dict[str, Any]:
    """The counts for `quality.json`: field -> what -> figures by split, in the units of people."""
    found: dict[str, dict[str, Any]] = {}
    for (what, field), parts in _by_split(figures.numbers, splits, Numbers()).items():
        quantity = QUANTITIES[what]
        bars = charts.histogram(parts, scale=quantity.scale, log=quantity.log)
        found.setdefault(field, {})[what] = {
            "unit": quantity.title,
            **{split: _summary(part, quantity.scale) for split, part in parts.items() if part.count},
            "histogram": [[b.title, *(n for n, _ in b.bars)] for b in bars.bins],
        }
    for (what, field), names in _by_split(figures.names, splits, Names()).items():
        found.setdefault(field, {})[what] = {
            split: {
                "total": part.total,
                "different": len(part.counts),
                "sampled": part.cut,
                "most": dict(sorted(part.counts.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP_JSON]),
            }
            for split, part in names.items()
            if part.total
        }
    return dict(sorted(found.items()))


def _by_split[T](
    parts: Mapping[tuple[str, str, str], T], splits: Sequence[str], empty: T
) -> dict[tuple[str, str], dict[str, T]]:
    """(what, field) -> split -> counts; every split is there."""
    keys = {(what, field) for _, what, field in parts}
    kinds = [*QUANTITIES, *LISTS]
    order = sorted(keys, key=lambda key: (key[1], kinds.index(key[0])))
    return {(what, field): {s: parts.get((s, what, field), empty) for s in splits} for what, field in order}


def _summary(part: Numbers, scale: int) -> dict[str, float]:
    return {
        "count": part.count,
        "least": _rounded(part.least or 0, scale),
        "median": _rounded(part.quantile(50), scale),
        "mean": _rounded(part.total / part.count, scale),
        "p95": _rounded(part.quantile(95), scale),
        "most": _rounded(part.most or 0, scale),
    }


def _rounded(value: float, scale: int) -> float:
    """Five significant digits, a whole number where it is one."""
    rounded = float(f"{value / scale:.5g}")
    return int(rounded) if rounded == int(rounded) else rounded


def _line(field: str, quantity: _Quantity, split: str, part: Numbers) -> Line:
    return Line(
        field, quantity.title, split, tuple(charts.short(value) for value in _summary(part, quantity.scale).values())
    )
