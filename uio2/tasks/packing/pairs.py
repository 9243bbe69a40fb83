"""Two examples a row, found on a stream with a small pool: the original's way (spec: MODEL.md section 7).

Of the waiting examples that fit beside a new one the longest becomes its partner. Otherwise the new one waits; with
a full pool the longest of all goes alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from uio2.tasks.packing.sizes import PackedRow, Sizes


def pair_stream(sizes: Sizes, *, encoder: int, decoder: int, pool: int) -> Iterator[tuple[int, ...]]:
    """Rows as (new, partner) or (example,), in the order they are made; what waits at the end is not among them."""
    waiting: list[int | None] = [None] * pool
    total = sizes.encoder + sizes.decoder
    for new in range(len(sizes)):
        there = [(slot, example) for slot, example in enumerate(waiting) if example is not None]
        fitting = [
            (slot, example) for slot, example in there
            if sizes.encoder[new] + sizes.encoder[example] <= encoder
            and sizes.decoder[new] + sizes.decoder[example] <= decoder
        ]  # fmt: skip
        if fitting:
            slot, partner = max(fitting, key=lambda found: total[found[1]])
            waiting[slot] = None
            yield new, partner
        elif len(there) < pool:
            waiting[waiting.index(None)] = new
        else:
            slot, longest = max(there, key=lambda found: total[found[1]])
            if total[new] >= total[longest]:
                yield (new,)
            else:
                waiting[slot] = new
                yield (longest,)


def pairs(sizes: Sizes, *, encoder: int, decoder: int, kind: str, pool: int) -> list[PackedRow]:
    """Every example in exactly one row of this kind: `pair_stream`, then what still waits, each alone."""
    found = list(pair_stream(sizes, encoder=encoder, decoder=decoder, pool=pool))
    placed = np.zeros(len(sizes), bool)
    placed[[example for row in found for example in row]] = True
    alone = [(int(example),) for example in np.flatnonzero(~placed)]
    return [PackedRow(row, kind) for row in (*found, *alone)]
