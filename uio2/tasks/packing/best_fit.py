"""N examples a row: large ones first, each into the row that is left with the least room (best fit decreasing).

Rows have two limits. Examples whose targets need a long decoder row come first and open rows of their kind; examples
with short targets then fill those rows' encoders before they open rows of their own. On the length stream of the
original's pairing this finds the 31 rows that no packing can beat (`benchmarks/packing.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from uio2.tasks.packing.sizes import PackedRow, Sizes


def best_fit(sizes: Sizes, *, encoder: int, decoder: Mapping[str, int]) -> list[PackedRow]:
    """Every example in exactly one row.

    Args:
      sizes: of the pool.
      encoder: tokens of an encoder row.
      decoder: tokens of a decoder row by kind (`Sizes.kinds`).

    An example that is longer than a row by itself is a row of its own.
    """
    if not len(sizes):
        return []
    kinds = sizes.kinds
    lengths = np.stack([sizes.encoder, sizes.decoder], axis=1).astype(np.int64)
    limits = np.array([(encoder, decoder[kind]) for kind in kinds], np.int64)
    largest = (lengths / limits).max(axis=1)
    # By kind, then by size; the index settles ties, so that equal pools give equal rows.
    order = np.lexsort((np.arange(len(sizes)), -largest, -limits[:, 1]))
    smallest = np.minimum.accumulate(lengths[order][::-1])[::-1]
    rows = _OpenRows()
    for place, example in enumerate(order):
        if place % 256 == 0:
            rows.close(smallest[place])
        rows.add(int(example), lengths[example], limits[example], str(kinds[example]))
    return [PackedRow(tuple(members), kind) for members, kind in zip(rows.members, rows.kinds, strict=True)]


class _OpenRows:
    """Rows and the room they have left; those that nothing fits into any more are looked at no longer."""

    def __init__(self) -> None:
        self.members: list[list[int]] = []
        self.kinds: list[str] = []
        self._room = np.zeros((0, 2), np.int64)
        self._scale = np.zeros((0, 2))
        self._number = np.zeros(0, np.int64)
        self._count = 0

    def close(self, smallest: np.ndarray) -> None:
        """Leaves out rows without room for `smallest`, and makes place for more."""
        kept = np.flatnonzero((self._room[: self._count] >= smallest).all(axis=1))
        self._count = len(kept)
        more = np.zeros((256, 2), np.int64)
        self._room = np.concatenate([self._room[kept], more])
        self._scale = np.concatenate([self._scale[kept], more + 1.0])
        self._number = np.concatenate([self._number[kept], more[:, 0]])

    def add(self, example: int, length: np.ndarray, limit: np.ndarray, kind: str) -> None:
        left = self._room[: self._count] - length
        fits = np.flatnonzero(left.min(axis=1, initial=0) >= 0) if self._count else np.zeros(0, np.int64)
        if len(fits):
            best = fits[np.argmin((left[fits] * self._scale[fits]).sum(axis=1))]
            self.members[self._number[best]].append(example)
            self._room[best] -= length
            return
        self._number[self._count] = len(self.members)
        self._room[self._count], self._scale[self._count] = limit - length, 1.0 / limit
        self._count += 1
        self.members.append([example])
        self.kinds.append(kind)
