"""Writes the quality report of a built dataset: `quality.json` for programs, `quality.html` for people.

Equal shards, accounting and dead letters give equal bytes: no date, no path, no rounding that could differ.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_jobs.quality import doubles as found
from beam_jobs.quality.cards import Card, by_split, read_cards, sample_places
from beam_jobs.quality.doubles import Doubles
from beam_jobs.quality.figures import Figures, Place
from beam_jobs.quality.layout import Layout
from beam_jobs.quality.page import Built, Page, render
from beam_jobs.quality.sections import sections, values
from beam_jobs.shards import Shard, group_sizes
from uio2.pipeline.stage import StageError

FILES = ("quality.json", "quality.html")
FIRST_SAMPLES, OTHER_SAMPLES = 8, 4
LETTER_SAMPLES = 3


def write_report(built: Built, *, layout: Layout, folder: Path, max_leaked_fraction: float | None) -> dict[str, Any]:
    """Writes both files from what `Figures.save` left in `folder`; returns figures for the record.

    Args:
      built: the dataset.
      layout: its fields.
      folder: where the counts are and the files go.
      max_leaked_fraction: the share of a split that `train` may have too; None allows any.

    Raises:
      StageError: more than that leaks; the report is in `folder`.
    """
    figures = Figures.load(str(folder))
    doubles = found.find(figures.rows(), splits=[shard.split for shard in built.shards])
    splits = sorted(group_sizes(built.shards), key=lambda s: (s != found.TRAIN, s))
    samples = read_cards(layout, built.shards, sample_places(built.shards, first=FIRST_SAMPLES, others=OTHER_SAMPLES))
    shown = read_cards(layout, built.shards, _listed(doubles), small=True)
    letters = _letters(built.letters)
    report = {
        "dataset": built.name,
        "version": built.version,
        "splits": {s: {"records": n, "bytes": _bytes(built.shards, s)} for s, n in group_sizes(built.shards).items()},
        "accounting": dict(built.accounting),
        "dead_letters": letters,
        **_doubles(doubles, figures, layout, shown),
        "fields": values(figures, splits=splits),
    }
    (folder / FILES[0]).write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    page = Page(
        built=built,
        splits={s: report["splits"][s] for s in splits},
        layout=layout,
        letters=letters,
        doubles=doubles,
        samples=by_split(samples, splits=splits),
        shown=shown,
        sections=sections(figures, splits=splits, sound=layout.sound.name if layout.sound else None),
        compared=f"{doubles.compared} of {figures.records}" if doubles.compared < figures.records else "",
    )
    # A dead letter may quote bytes that are no text.
    (folder / FILES[1]).write_bytes(render(page).encode("utf-8", "replace"))
    _check(doubles, limit=max_leaked_fraction, shown=shown, folder=folder)
    near = {"near_duplicates": doubles.near} if layout.looks else {}
    return {"duplicates": doubles.duplicates, **near, "leaked": doubles.leaked}


def _listed(doubles: Doubles) -> set[Place]:
    places = {place for group in doubles.groups for place in group}
    places |= {place for pair in doubles.pairs for place in (pair.one, pair.other)}
    return places | {place for pair in doubles.same_key for place in pair}


def _bytes(shards: Sequence[Shard], split: str) -> int:
    return sum(shard.bytes for shard in shards if shard.split == split)


def _doubles(doubles: Doubles, figures: Figures, layout: Layout, shown: Mapping[Place, Card]) -> dict[str, Any]:
    def named(places: Sequence[Place]) -> list[str]:
        return [f"{shown[place].split}: {shown[place].key}" for place in places]

    return {
        "compared": {"by": layout.content, "records": doubles.compared, "of": figures.records, "cut": doubles.cut},
        "duplicates": {"records": doubles.duplicates, "groups": [named(group) for group in doubles.groups]},
        "near_duplicates": {
            "compared": layout.looks,
            "records": doubles.near,
            "pairs": [{"bits": pair.bits, "keys": named((pair.one, pair.other))} for pair in doubles.pairs],
        },
        "leakage": {
            "splits": {s: dataclasses.asdict(leak) for s, leak in doubles.leaks.items()},
            "same_key": [named(pair) for pair in doubles.same_key],
        },
    }


def _letters(letters: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Dead letters by reason, with the first few of each."""
    groups: dict[tuple[str, str, str, bool], list[Mapping[str, Any]]] = {}
    for letter in letters:
        place = (letter["stage"], letter["kind"], letter["reason"], letter["fault"])
        groups.setdefault(place, []).append(letter)
    found = []
    for (stage, kind, reason, fault), members in sorted(groups.items()):
        first = [{name: m[name] for name in ("key", "error", "source")} for m in members[:LETTER_SAMPLES]]
        found.append(
            {"stage": stage, "kind": kind, "reason": reason, "fault": fault, "letters": len(members), "first": first}
        )
    return found


def _check(doubles: Doubles, *, limit: float | None, shown: Mapping[Place, Card], folder: Path) -> None:
    if limit is None:
        return
    for split, leak in doubles.leaks.items():
        if leak.fraction > limit:
            listed = [*doubles.groups, *((p.one, p.other) for p in doubles.pairs), *doubles.same_key]
            across = [places for places in listed if len({shown[p].split for p in places}) > 1]
            first = "; ".join(" = ".join(f"{shown[p].split} {shown[p].key}" for p in places) for places in across[:3])
            raise StageError(
                f"{leak.any} of {leak.records} records of {split} are in train too ({leak.fraction:.1%}; same content "
                f"{leak.content}, look-alikes {leak.near}, same key {leak.key}), more than max_leaked_fraction = "
                f"{limit:.1%} allows. First: {first}. They are shown in {folder / FILES[1]}. Take them out of one "
                "split or raise max_leaked_fraction"
            )
