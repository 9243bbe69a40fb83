"""Which pictures look alike: hashes that differ in at most `NEAR_BITS` bits, found without comparing all with all.

Of five bands of a hash at least one is equal where at most four bits differ, so only hashes with an equal band are
compared, each pair in the first band it shares. Uniform hashes: 100,000 take 0.24 s and a million 14 s, and from there
the time grows with the square. Where more than `WINDOW` hashes share a band, those farther apart in order are not
compared: `cut` says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from beam_jobs.quality.figures import Place
from beam_jobs.quality.hashes import NEAR_BITS, distance

WINDOW = 10_000
_BANDS = tuple(pairwise((0, 13, 26, 39, 52, 64)))
_KEPT = 4096  # candidates for the list of pairs
_TRIED = 64


@dataclasses.dataclass(frozen=True)
class Near:
    """Two records of other content that look alike, and in how many bits they differ."""

    one: Place
    other: Place
    bits: int


@dataclasses.dataclass(frozen=True)
class Alike:
    """What looks alike.

    Attributes:
      splits: uint64 [records]: bits of the splits in which a record of other content looks like this one.
      pairs: the first few: across splits before others, then the nearest.
      cut: whether some may not have been found.
    """

    splits: np.ndarray
    pairs: tuple[Near, ...]
    cut: bool


@dataclasses.dataclass(frozen=True)
class _Looks:
    """The distinct looks, sorted; the records of one are `order[start:end]`; `splits` has bits of those they are in."""

    order: np.ndarray
    values: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    splits: np.ndarray

    def records(self, number: int) -> np.ndarray:
        return self.order[self.starts[number] : self.ends[number]]


def alike(rows: np.ndarray, *, split: np.ndarray, listed: int) -> Alike:
    """Compares the looks of all records.

    Args:
      rows: `figures.ROW` [records], ordered by place.
      split: uint64 [records], the number of each record's split, below 64.
      listed: how many pairs to list.
    """
    looks = _looks(rows, split)
    marks = np.zeros(len(rows), np.uint64)
    kept = _mark_equal(rows, split, looks, marks)
    beside = np.zeros(len(looks.values), np.uint64)
    cut = False
    for one, other, full in _close(looks.values):
        cut |= full
        np.bitwise_or.at(beside, one, looks.splits[other])
        np.bitwise_or.at(beside, other, looks.splits[one])
        bits = np.bitwise_count(looks.values[one] ^ looks.values[other])
        alone = np.bitwise_count(looks.splits[one] | looks.splits[other]) == 1
        best = np.lexsort((other, one, bits, alone))[:_KEPT]
        kept += [(bool(alone[k]), int(bits[k]), int(one[k]), int(other[k])) for k in best]
        kept = sorted(kept)[:_KEPT]
    marks[looks.order] |= np.repeat(beside, looks.ends - looks.starts)
    return Alike(marks, _pairs(rows, split, looks, sorted(kept)[:listed]), cut)


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the runs of equal values in a sorted array."""
    if not len(values):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return starts, np.append(starts[1:], len(values))


def _looks(rows: np.ndarray, split: np.ndarray) -> _Looks:
    order = np.argsort(rows["visual"], kind="stable")
    order = order[rows["visual"][order] > 0]
    values = rows["visual"][order]
    starts, ends = runs(values)
    bits = np.left_shift(np.uint64(1), split[order])
    splits = np.bitwise_or.reduceat(bits, starts) if len(order) else bits
    return _Looks(order, values[starts], starts, ends, splits)


def _mark_equal(
    rows: np.ndarray, split: np.ndarray, looks: _Looks, marks: np.ndarray
) -> list[tuple[bool, int, int, int]]:
    """Marks records of one look and different contents; returns those looks as candidates for the list."""
    found = []
    for number in np.flatnonzero(looks.ends - looks.starts > 1).tolist():
        members = looks.records(number)
        contents, which = np.unique(rows["content"][members], return_inverse=True)
        if len(contents) < 2:
            continue
        bits = np.zeros(len(contents), np.uint64)
        np.bitwise_or.at(bits, which, np.left_shift(np.uint64(1), split[members]))
        for s in np.unique(split[members]):
            has = (bits >> s & np.uint64(1)).astype(np.int64)
            # Its own content does not make a record look like another.
            marks[members[has.sum() - has[which] > 0]] |= np.left_shift(np.uint64(1), s)
        found.append((int(looks.splits[number]).bit_count() == 1, 0, number, number))
        if len(found) > 2 * _KEPT:
            found = sorted(found)[:_KEPT]
    return found


def _close(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Pairs of distinct hashes within `NEAR_BITS`, each once, in parts; and whether the window was too small."""
    for number, band in enumerate(_BANDS):
        found = _band(values, band)
        order = np.argsort(found, kind="stable")
        in_order = found[order]
        left = np.arange(max(0, len(values) - 1))
        for step in range(1, WINDOW + 1):
            left = left[: np.searchsorted(left, len(values) - step)]
            left = left[in_order[left] == in_order[left + step]]
            if not len(left):
                break
            one, other = order[left], order[left + step]
            near = np.bitwise_count(values[one] ^ values[other]) <= NEAR_BITS
            one, other = one[near], other[near]
            for before in _BANDS[:number]:
                new = _band(values[one], before) != _band(values[other], before)
                one, other = one[new], other[new]
            if len(one):
                yield np.minimum(one, other), np.maximum(one, other), False
        else:
            yield left[:0], left[:0], True


def _band(values: np.ndarray, band: tuple[int, int]) -> np.ndarray:
    low, high = band
    return values >> np.uint64(low) & np.uint64((1 << (high - low)) - 1)


def _pairs(
    rows: np.ndarray, split: np.ndarray, looks: _Looks, chosen: Iterable[tuple[bool, int, int, int]]
) -> tuple[Near, ...]:
    found = []
    for _, bits, one, other in chosen:
        a, b = _apart(rows, split, looks.records(one)[:_TRIED], looks.records(other))
        places = sorted((int(rows["place"][a]), int(rows["place"][b])))
        assert bits == distance(int(looks.values[one]), int(looks.values[other]))
        found.append(Near(Place.of(places[0]), Place.of(places[1]), bits))
    return tuple(found)


def _apart(rows: np.ndarray, split: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[int, int]:
    """A record of each, of different contents and, where there is such a pair, of different splits."""
    differ = rows["content"][left][:, None] != rows["content"][right][None]
    across = differ & (split[left][:, None] != split[right][None])
    a, b = np.argwhere(across if across.any() else differ)[0]
    return int(left[a]), int(right[b])
