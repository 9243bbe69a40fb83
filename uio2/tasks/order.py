"""Which example stands at which position of training: pure functions of (seed, position).

Everything is derived from one integer hash (splitmix64), so the order does not depend on the version of a
random library, and any position is found without walking to it:
  position -> (task, ordinal within the task) through blocks of 1000 positions that hold each task exactly
  as often as its rate says, in a hashed order;
  ordinal -> (epoch, row) through one hashed permutation of the task's records per epoch;
  (task, epoch, row) -> the numbers in 0..1 that all choices for this example are made from.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping

import numpy as np

BLOCK = 1000


def hash64(*keys: int | np.ndarray) -> np.ndarray:
    """uint64 hash of integers; arrays broadcast."""
    state: np.ndarray | np.uint64 = np.uint64(0)
    with np.errstate(over="ignore"):
        for key in keys:
            x = np.asarray(key).astype(np.uint64) ^ state
            x = x + np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = x ^ (x >> np.uint64(31))
    return np.asarray(state)


def name_key(name: str) -> int:
    """A stable integer for a name."""
    return zlib.crc32(name.encode())


def uniforms(*keys: int | np.ndarray, count: int) -> np.ndarray:
    """float32 [..., count] in [0, 1), one row per broadcast element of the keys."""
    rows = hash64(*keys)[..., None]
    bits = hash64(rows, np.arange(count)) >> np.uint64(40)
    return bits.astype(np.float32) * np.float32(2.0**-24)


@functools.lru_cache(maxsize=16)
def _permutation(size: int, keys: tuple[int, ...]) -> np.ndarray:
    return np.argsort(hash64(*keys, np.arange(size)), kind="stable")


def locate(ordinals: np.ndarray, *, size: int, seed: int, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and rows of the task's ordinals: every row once per epoch, in an order of its own."""
    epochs, within = np.divmod(ordinals, size)
    rows = np.empty_like(ordinals)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = _permutation(size, (seed, name_key(task), int(epoch)))[within[here]]
    return epochs, rows


class Schedule:
    """Which task stands at a position, and how many of its examples came before.

    Rates are rounded to thousandths (largest remainder); a task with a rate above 0 gets at least one slot.
    """

    def __init__(self, rates: Mapping[str, float], *, seed: int) -> None:
        # Sorted, so that the order of a mapping (JSON, gin) never decides what is learned when.
        self.tasks = sorted(name for name, rate in rates.items() if rate > 0)
        shares = np.array([rates[name] for name in self.tasks], float)
        exact = shares / shares.sum() * BLOCK
        counts = np.maximum(np.floor(exact).astype(int), 1)
        for n in np.argsort(np.floor(exact) - exact, kind="stable"):
            counts[n] += counts.sum() < BLOCK
        counts[np.argmax(counts)] += BLOCK - counts.sum()
        self._counts = counts
        self._slots = np.repeat(np.arange(len(self.tasks)), counts)
        self._seed = seed
        self._block = functools.lru_cache(maxsize=64)(self._block_uncached)

    def _block_uncached(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        slots = self._slots[_permutation(BLOCK, (self._seed, name_key("schedule"), block))]
        ordinals = np.empty(BLOCK, np.int64)
        for task, count in enumerate(self._counts):
            ordinals[slots == task] = np.arange(count) + block * count
        return slots, ordinals

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(task number, ordinal within the task), both int64, for positions counted from 0."""
        blocks, within = np.divmod(positions, BLOCK)
        tasks, ordinals = np.empty_like(positions), np.empty_like(positions)
        for block in np.unique(blocks):
            here = blocks == block
            slots, numbers = self._block(int(block))
            tasks[here], ordinals[here] = slots[within[here]], numbers[within[here]]
        return tasks, ordinals
