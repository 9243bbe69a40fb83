"""The page: one HTML file that loads nothing, pictures as data URIs, bars as HTML. Escaping is the template's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.quality.cards import Card
from beam_jobs.quality.doubles import Doubles
from beam_jobs.quality.figures import Place
from beam_jobs.quality.layout import Layout
from beam_jobs.quality.sections import Section
from beam_jobs.shards import Shard
from uio2.pipeline.pages import page_templates

TEMPLATE = "quality.html.jinja"
Group = tuple[Sequence[Place], str, bool]  # places, what is said of them, whether they are in several splits


@dataclasses.dataclass(frozen=True)
class Built:
    """What a build knows of its dataset: `shards` in the order of (split, index), as they were read back."""

    name: str
    version: str
    description: str
    shards: Sequence[Shard]
    accounting: Mapping[str, Any]
    letters: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Page:
    """What the template draws; `shown` has a card for every place that `doubles` lists."""

    built: Built
    splits: Mapping[str, Mapping[str, int]]
    layout: Layout
    letters: Sequence[Mapping[str, Any]]
    doubles: Doubles
    samples: Mapping[str, Sequence[Card]]
    shown: Mapping[Place, Card]
    sections: Sequence[Section]
    compared: str

    def equal(self) -> list[Group]:
        return [self._group(places, f"{len(places)} shown") for places in self.doubles.groups]

    def alike(self) -> list[Group]:
        return [
            self._group((pair.one, pair.other), f"{pair.bits} of 64 bits differ" if pair.bits else "same hash")
            for pair in self.doubles.pairs
        ]

    def keyed(self) -> list[Group]:
        return [self._group(places, self.shown[places[0]].key) for places in self.doubles.same_key]

    def _group(self, places: Sequence[Place], told: str) -> Group:
        return places, told, len({self.shown[place].split for place in places}) > 1


def render(page: Page) -> str:
    """The HTML."""
    environment = page_templates(__file__)
    environment.filters["size"] = size
    return environment.get_template(TEMPLATE).render(page=page)


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"
