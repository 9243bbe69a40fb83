"""Records that are there twice, and what other splits share with `train`: from one table of hashes, `figures.ROW`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from beam_jobs.quality.figures import PLACE_BITS, Place
from beam_jobs.quality.near import Near, alike, runs

TRAIN = "train"
LISTED = 8
PER_GROUP = 6
_KEPT = 4096


@dataclasses.dataclass(frozen=True)
class Leak:
    """Records of a split that `train` has too, by what is equal; `any` counts each record once."""

    records: int
    content: int
    near: int
    key: int
    any: int

    @property
    def fraction(self) -> float:
        return self.any / self.records if self.records else 0.0


@dataclasses.dataclass(frozen=True)
class Doubles:
    """What is there more than once.

    Attributes:
      compared: records whose hashes were kept.
      duplicates: records less different contents.
      near: records that look like one of other content.
      leaks: by split, except `train`; none without `train`.
      groups: places of equal content, those across splits first, then the largest.
      pairs: places that look alike, those across splits first, then the nearest.
      same_key: places of `train` and another split with one key.
      cut: whether some near pairs may not have been found.
    """

    compared: int
    duplicates: int
    near: int
    leaks: Mapping[str, Leak]
    groups: tuple[tuple[Place, ...], ...]
    pairs: tuple[Near, ...]
    same_key: tuple[tuple[Place, Place], ...]
    cut: bool

    @property
    def leaked(self) -> int:
        """Records of all splits but `train` that `train` has too."""
        return sum(leak.any for leak in self.leaks.values())


def find(rows: np.ndarray, *, splits: Sequence[str]) -> Doubles:
    """Compares all records.

    Args:
      rows: `figures.ROW` [records], ordered by place.
      splits: the split of each shard number.
    """
    names = sorted(set(splits))
    of_shard = np.array([names.index(s) for s in splits], np.uint64)
    split = of_shard[(rows["place"] >> np.uint64(PLACE_BITS)).astype(np.int64)]
    near = alike(rows, split=split, listed=LISTED)
    leaks: dict[str, Leak] = {}
    same_key: list[tuple[Place, Place]] = []
    if TRAIN in names:
        train = names.index(TRAIN)
        seen = rows[split == train]
        for number, name in enumerate(names):
            if number != train:
                mine = rows[split == number]
                content = np.isin(mine["content"], seen["content"])
                key = np.isin(mine["key"], seen["key"]) & (mine["key"] > 0)
                look = (near.splits[split == number] >> np.uint64(train) & np.uint64(1)).astype(bool)
                leaks[name] = Leak(len(mine), *(int(x.sum()) for x in (content, look, key, content | look | key)))
                same_key += _same_key(seen, mine[key])
    return Doubles(
        compared=len(rows),
        duplicates=len(rows) - len(np.unique(rows["content"])),
        near=int((near.splits > 0).sum()),
        leaks=leaks,
        groups=_groups(rows, split),
        pairs=near.pairs,
        same_key=tuple(same_key[:LISTED]),
        cut=near.cut,
    )


def _groups(rows: np.ndarray, split: np.ndarray) -> tuple[tuple[Place, ...], ...]:
    order = np.argsort(rows["content"], kind="stable")
    starts, ends = runs(rows["content"][order])
    found: list[tuple[bool, int, int, int]] = []
    many = ends - starts > 1
    for start, end in zip(starts[many].tolist(), ends[many].tolist(), strict=True):
        alone = bool((split[order[start:end]] == split[order[start]]).all())
        found.append((alone, start - end, int(rows["place"][order[start]]), start))
        if len(found) > _KEPT:
            found = sorted(found)[:LISTED]
    chosen = [order[start : start - less] for _, less, _, start in sorted(found)[:LISTED]]
    return tuple(tuple(Place.of(int(p)) for p in _spread(rows["place"][m], split[m])) for m in chosen)


def _spread(places: np.ndarray, split: np.ndarray) -> np.ndarray:
    """The first places, with at least one of each split among them."""
    first = np.unique(split, return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(places)), first)
    return np.sort(places[np.concatenate([first, rest])[:PER_GROUP]])


def _same_key(train: np.ndarray, other: np.ndarray) -> list[tuple[Place, Place]]:
    found = []
    for row in other[:LISTED]:
        there = train["place"][np.flatnonzero(train["key"] == row["key"])[0]]
        found.append((Place.of(int(there)), Place.of(int(row["place"]))))
    return found
