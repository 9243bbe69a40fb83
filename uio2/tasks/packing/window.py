"""The examples of one window as its batches: rows by a strategy, rows to batches within the budgets of a batch.

A window makes exactly `steps` batches. How many examples it holds is settled once, from a sample (`plan_windows`), so
that its rows just fill the batches; a window that happens to need more makes every batch a row or two larger.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from uio2.tasks.order import hash64, name_key
from uio2.tasks.packing.best_fit import best_fit
from uio2.tasks.packing.pairs import pairs
from uio2.tasks.packing.sizes import PackedRow, Sizes
from uio2.tasks.packing.spec import ITEMS, PackingSpec

# Places for examples: so much more than the average, and where that is not enough a quarter more, and so on. A shape
# per window would be a compilation per window.
PLACES, MORE = 1.2, 0.25
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
    taken = np.maximum(sample.encoder / spec.encoder, sample.decoder / max(spec.decoder.values()))
    counts = [_safely(rows * steps * len(sample) / len(packed), taken)]
    for name, most in spec.budget.items():
        each = sample.items[:, ITEMS.index(name)]
        if each.any():
            counts.append((1 - SLACK) * _safely(steps * most / float(each.mean()), each))
    positions = max(int(min(counts)), steps)
    return Windows(positions, steps, rows, _up(PLACES * positions / steps / spec.groups, 8))


def _safely(count: float, taken: np.ndarray) -> float:
    """How many examples to take where `count` fit on average, so that they nearly always do.

    What is left to chance is read from stretches of the sample, not from single examples: the order of tasks holds
    each as often as its rate says, so it is less than the examples' own spread.
    """
    stretch = max(len(taken) // 16, 1)
    sums = taken[: len(taken) // stretch * stretch].reshape(-1, stretch).sum(axis=1)
    deviation = float(sums.std() / sums.mean()) * math.sqrt(stretch / count) if sums.any() else 0.0
    return count * max(1 - DEVIATIONS * deviation, 0.5)


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
    decoders = _decoders(packed, sizes, spec=spec, rows=rows, batches=windows.steps)
    parts = _spread(packed, sizes, spec=spec, windows=windows, rows=rows, decoders=decoders)
    most = max(sum(map(len, group)) for part in parts for group in part)
    places = windows.places
    while places < most:
        places += _up(MORE * windows.places, 8)
    order = np.argsort(hash64(seed, name_key("packing"), window, np.arange(len(parts))), kind="stable")
    shape = {"rows": rows // spec.groups, "places": places}
    return [_batch(parts[n], sizes, encoder=spec.encoder, decoder=decoders[n], **shape) for n in order]


def _batch(
    part: Sequence[list[tuple[int, ...]]], sizes: Sizes, *, encoder: int, decoder: int, **shape: int
) -> PackedBatch:
    found = [list(row) for group in part for row in group]
    longest = [max(int(side[row].sum()) for row in found) for side in (sizes.encoder, sizes.decoder)]
    lengths = [limit if most <= limit else _up(most, LENGTHS)
               for most, limit in zip(longest, (encoder, decoder), strict=True)]  # fmt: skip
    return PackedBatch(
        tuple(tuple(group) for group in part), encoder=lengths[0], decoder=lengths[1], rows=shape["rows"],
        places=shape["places"],
    )  # fmt: skip


def _decoders(packed: Sequence[PackedRow], sizes: Sizes, *, spec: PackingSpec, rows: int, batches: int) -> list[int]:
    """Decoder length of each batch, longest first: as few long ones as hold the rows that need them."""
    found: list[int] = []
    rest = len(packed)
    for kind in sorted({row.kind for row in packed}, key=lambda name: -spec.decoder[name]):
        mine = [row.members for row in packed if row.kind == kind]
        rest -= len(mine)
        share = math.ceil(len(mine) / rows)
        for name, most in spec.budget.items():
            items = sizes.items[[e for members in mine for e in members], ITEMS.index(name)].sum()
            share = max(share, math.ceil(items / most))
        left = batches - len(found)
        found += [spec.decoder[kind]] * min(max(share, left - rest), left)
    return found


def _spread(
    packed: Sequence[PackedRow], sizes: Sizes, *, spec: PackingSpec, windows: Windows, rows: int, decoders: list[int]
) -> list[list[list[tuple[int, ...]]]]:
    """Rows to batches and groups: long decoder rows first, then the heaviest, each to where the load stays the least.

    Short decoder rows also go to batches of long ones, where those have places left.
    """
    groups, most = spec.groups, rows // spec.groups
    limits = np.array([windows.places, *(count / groups for count in spec.budget.values())], float)
    weights = _weights(packed, sizes, spec=spec) / limits
    needs = np.array([spec.decoder[row.kind] for row in packed])
    offers = np.repeat(decoders, groups)
    load, count = np.zeros((len(offers), len(limits))), np.zeros(len(offers), int)
    parts: list[list[tuple[int, ...]]] = [[] for _ in offers]
    for n in np.lexsort((np.arange(len(packed)), -weights.max(axis=1), -needs)):
        after = np.where((count < most) & (offers >= needs[n]), (load + weights[n]).max(axis=1), np.inf)
        least = np.flatnonzero(after == after.min())
        part = least[np.argmin(count[least])]
        parts[part].append(packed[n].members)
        load[part] += weights[n]
        count[part] += 1
    return [parts[start : start + groups] for start in range(0, len(parts), groups)]


def _weights(packed: Sequence[PackedRow], sizes: Sizes, *, spec: PackingSpec) -> np.ndarray:
    """float [rows, 1 + budgets]: examples and items of each row."""
    columns = [ITEMS.index(name) for name in spec.budget]
    return np.array(
        [[len(row.members), *sizes.items[list(row.members)][:, columns].sum(axis=0)] for row in packed], float
    )


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
