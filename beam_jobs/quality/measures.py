"""Counts of parts that can be added: numbers in buckets, names in a bounded table.

Everything is an integer, so the order of adding does not matter: no rounding, equal results on every runner.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

SIGNIFICANT_BITS = 10
MOST_NAMES = 10_000
NAME_LENGTH = 80


def bucket(value: int) -> int:
    """The lower end of a number's bucket: itself below 1024, else rounded down to 10 significant bits (0.2%)."""
    drop = value.bit_length() - SIGNIFICANT_BITS
    return value if drop <= 0 else value >> drop << drop


@dataclasses.dataclass
class Numbers:
    """Integers >= 0: exact count, sum, least and most, and a histogram of buckets."""

    buckets: Counter[int] = dataclasses.field(default_factory=Counter)
    total: int = 0
    least: int | None = None
    most: int | None = None

    @property
    def count(self) -> int:
        return self.buckets.total()

    def add(self, value: int) -> None:
        self.buckets[bucket(value)] += 1
        self.total += value
        self._widen(value, value)

    def merge(self, other: Numbers) -> None:
        self.buckets.update(other.buckets)
        self.total += other.total
        if other.least is not None and other.most is not None:
            self._widen(other.least, other.most)

    def _widen(self, least: int, most: int) -> None:
        self.least = least if self.least is None else min(self.least, least)
        self.most = most if self.most is None else max(self.most, most)

    def quantile(self, per_cent: int) -> int:
        """The bucket that holds this quantile; 0 of no numbers."""
        left = (self.count * per_cent + 99) // 100
        for value in sorted(self.buckets):
            left -= self.buckets[value]
            if left <= 0:
                return value
        return 0

    def to_json(self) -> dict[str, Any]:
        pairs = [[value, n] for value, n in sorted(self.buckets.items())]
        return {"total": self.total, "least": self.least, "most": self.most, "buckets": pairs}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Numbers:
        return cls(Counter(dict(value["buckets"])), value["total"], value["least"], value["most"])


@dataclasses.dataclass
class Names:
    """How often each name came.

    Of more than `MOST_NAMES` names those with the smallest hashes are kept: a sample, the same whatever the order of
    adding, with exact counts for what is kept (`cut` says that it happened).
    """

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    total: int = 0
    cut: bool = False

    def add(self, name: str) -> None:
        self.counts[name[:NAME_LENGTH]] += 1
        self.total += 1
        self._trim(slack=2)

    def merge(self, other: Names) -> None:
        self.counts.update(other.counts)
        self.total += other.total
        self.cut |= other.cut
        self._trim(slack=1)

    def _trim(self, *, slack: int) -> None:
        if len(self.counts) > slack * MOST_NAMES:
            kept = sorted(self.counts, key=lambda name: hashlib.sha256(name.encode()).digest())[:MOST_NAMES]
            self.counts = Counter({name: self.counts[name] for name in kept})
            self.cut = True

    def to_json(self) -> dict[str, Any]:
        self._trim(slack=1)
        return {"total": self.total, "cut": self.cut, "counts": dict(sorted(self.counts.items()))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Names:
        return cls(Counter(value["counts"]), value["total"], value["cut"])
