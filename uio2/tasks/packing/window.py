"""The examples of one window as its batches: rows by a strategy, rows to batches within the budgets of a batch.

A window makes exactly `steps` batches. How many examples it holds is settled once, from a sample (`plan_windows`), so
that its rows just fill the batches; a window that happens to need more makes every batch a row or two larger.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from uio2.tasks.order import hash64, name_key
from uio2.tasks.packing.best_fit import best_fit
from uio2.tasks.packing.pairs import pairs
from uio2.tasks.packing.sizes import PackedRow, Sizes
from uio2.tasks.packing.spec import ITEMS, PackingSpec

# Rows and places are counted in steps of this: a shape per window would be a compilation per window.
PLACES = 8
# A row for an example that is longer than a row: its batch is this much longer, or a multiple.
LENGTHS = 64
DEVIATIONS = 2.0
SLACK = 0.03


class PackingError(ValueError):
    """Packing that cannot work as asked: names the setting, its value and what to change."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """How the stream of positions is cut.

    Attributes:
      positions: examples of a window.
      steps: batches of a window.
      rows: rows of a batch.
      places: examples a group of a batch has place for.
    """

    positions: int
    steps: int
    rows: int
    places: int


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """One batch.

    Attributes:
      groups: for each group its rows, each a tuple of examples (numbers in the window).
      rows, places: of each group; some stay empty.
      encoder, decoder: length of the rows.
    """

    groups: tuple[tuple[tuple[int, ...], ...], ...]
    rows: int
    places: int
    encoder: int
    decoder: int

    @property
    def members(self) -> np.ndarray:
        """int64: its examples, group after group, row after row."""
        return np.array([e for group in self.groups for row in group for e in row], np.int64)


def plan_windows(sample: Sizes, *, spec: PackingSpec, rows: int) -> Windows:
    """How many examples fill the rows of a window.

    Args:
      sample: examples of the stream, some thousands.
      spec: lengths, budgets, size of a window.
      rows: rows of a batch.

    Raises:
      PackingError: rows that do not split into the groups.
    """
    if rows % spec.groups:
        raise PackingError(f"a batch has {rows} rows; expected a multiple of PackingSpec.groups {spec.groups}")
    steps = math.ceil(spec.window_rows / rows)
    packed = pack_rows(sample, spec=spec)
    count = rows * steps * len(sample) / len(packed)
    count *= max(1 - DEVIATIONS * _deviation(sample, spec=spec) / math.sqrt(count), 0.5)
    for name, most in spec.budget.items():
        each = float(sample.items[:, ITEMS.index(name)].mean())
        count = min(count, (1 - SLACK) * steps * most / max(each, 1e-9))
    positions = max(int(count), steps)
    return Windows(positions, steps, rows, _up(1.1 * positions / steps / spec.groups, PLACES))


def _deviation(sample: Sizes, *, spec: PackingSpec) -> float:
    """Of what n examples in a row of the stream take, relative to its mean and times sqrt(n).

    From stretches, not from single examples: the order of tasks holds each as often as its rate says, so what is left
    to chance is less than the examples' own spread.
    """
    taken = np.maximum(sample.encoder / spec.encoder, sample.decoder / max(spec.decoder.values()))
    stretch = max(len(sample) // 16, 1)
    sums = taken[: len(taken) // stretch * stretch].reshape(-1, stretch).sum(axis=1)
    return float(sums.std() / max(sums.mean(), 1e-9)) * math.sqrt(stretch)


def pack_rows(sizes: Sizes, *, spec: PackingSpec) -> list[PackedRow]:
    """Every example in one row, by the strategy of the spec."""
    if spec.strategy == "pairs":
        kind = max(spec.decoder, key=lambda name: spec.decoder[name])
        return pairs(sizes, encoder=spec.encoder, decoder=spec.decoder[kind], kind=kind, pool=spec.pool)
    return best_fit(sizes, encoder=spec.encoder, decoder=spec.decoder)


def pack_window(sizes: Sizes, *, spec: PackingSpec, windows: Windows, seed: int, window: int) -> list[PackedBatch]:
    """The batches of a window, each example in exactly one of them.

    Raises:
      PackingError: fewer rows than batches.
    """
    packed = pack_rows(sizes, spec=spec)
    if len(packed) < windows.steps:
        raise PackingError(
            f"{len(sizes)} examples make {len(packed)} rows for {windows.steps} batches; "
            f"raise PackingSpec.window_rows or lower the rows of a batch"
        )
    rows = windows.rows
    while len(packed) > rows * windows.steps:
        rows += spec.groups
    parts = [
        (kind, part)
        for kind, found, batches in _by_kind(packed, rows=rows, batches=windows.steps, spec=spec)
        for part in _spread(found, sizes, spec=spec, windows=windows, rows=rows, batches=batches)
    ]
    most = max(sum(map(len, group)) for _, part in parts for group in part)
    places = max(windows.places, _up(most, PLACES))
    order = np.argsort(hash64(seed, name_key("packing"), window, np.arange(len(parts))), kind="stable")
    return [_batch(*parts[n], sizes, spec=spec, rows=rows // spec.groups, places=places) for n in order]


def _batch(
    kind: str, part: Sequence[list[tuple[int, ...]]], sizes: Sizes, *, spec: PackingSpec, rows: int, places: int
) -> PackedBatch:
    found = [list(row) for group in part for row in group]
    encoder = max(int(sizes.encoder[row].sum()) for row in found)
    decoder = max(int(sizes.decoder[row].sum()) for row in found)
    lengths = [limit if longest <= limit else _up(longest, LENGTHS)
               for longest, limit in ((encoder, spec.encoder), (decoder, spec.decoder[kind]))]  # fmt: skip
    return PackedBatch(tuple(tuple(group) for group in part), rows, places, *lengths)


def _by_kind(
    packed: Sequence[PackedRow], *, rows: int, batches: int, spec: PackingSpec
) -> list[tuple[str, list[PackedRow], int]]:
    """Rows by the kind of batch they go to, and how many such batches there are.

    The kind with the longest decoder rows comes first; what its batches have room for is filled with shorter rows.
    """
    queue = sorted(packed, key=lambda row: -spec.decoder[row.kind])
    found = []
    while queue:
        kind = queue[0].kind
        share = min(math.ceil(sum(row.kind == kind for row in queue) / rows), batches)
        share = batches if len(queue) <= share * rows else share
        found.append((kind, queue[: share * rows], share))
        queue, batches = queue[share * rows :], batches - share
    return found


def _spread(
    packed: list[PackedRow], sizes: Sizes, *, spec: PackingSpec, windows: Windows, rows: int, batches: int
) -> list[list[list[tuple[int, ...]]]]:
    """Rows of one kind to batches and groups: the heaviest first, each to where the load stays the least."""
    groups, most = spec.groups, rows // spec.groups
    columns = [ITEMS.index(name) for name in spec.budget]
    limits = np.array([windows.places, *(count / groups for count in spec.budget.values())], float)
    weights = np.array(
        [[len(row.members), *sizes.items[list(row.members)][:, columns].sum(axis=0)] for row in packed], float
    ) / limits
    load, count = np.zeros((batches * groups, len(limits))), np.zeros(batches * groups, int)
    parts: list[list[tuple[int, ...]]] = [[] for _ in range(batches * groups)]
    for n in np.lexsort((np.arange(len(packed)), -weights.max(axis=1))):
        after = np.where(count < most, (load + weights[n]).max(axis=1), np.inf)
        least = np.flatnonzero(after == after.min())
        part = least[np.argmin(count[least])]
        parts[part].append(packed[n].members)
        load[part] += weights[n]
        count[part] += 1
    return [parts[start : start + groups] for start in range(0, len(parts), groups)]


def _up(value: float, step: int) -> int:
    return math.ceil(value / step) * step


def fill(batches: Sequence[PackedBatch], sizes: Sizes) -> dict[str, float]:
    """How full the rows of these batches are, as shares, and examples per row."""
    rows = sum(batch.rows * len(batch.groups) for batch in batches)
    members = np.concatenate([batch.members for batch in batches])
    places = [sum(getattr(b, side) * b.rows * len(b.groups) for b in batches) for side in ("encoder", "decoder")]
    return {
        "encoder_fill": float(sizes.encoder[members].sum() / places[0]),
        "decoder_fill": float(sizes.decoder[members].sum() / places[1]),
        "examples_per_row": len(members) / rows,
    }


def items_per_batch(batches: Sequence[PackedBatch], sizes: Sizes) -> Counter[str]:
    """The most items of each kind that a batch holds."""
    most = np.max([sizes.items[batch.members].sum(axis=0) for batch in batches], axis=0)
    return Counter(dict(zip(ITEMS, (int(n) for n in most), strict=True)))
