"""One index map moves marked entries to the front of a shorter axis, and what was made of them back.

Two uses: packing (entries are the tokens of a row, or of several rows that share them out) and budgets (entries are
the images, frames or clips of a batch, so that an encoder runs on the real ones alone). Entries beyond the last slot
are dropped: what comes back for them is zero and `kept` says so (spec: MODEL.md sections 5, 7).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IndexMap:
    """r independent rows of n entries and s slots.

    Attributes:
      source: int32 [r, s], the entry each slot takes; n where the slot stays empty.
      slot: int32 [r, n], where each entry went; s where it was not marked or dropped.
    """

    source: Int[Array, "r s"]
    slot: Int[Array, "r n"]

    @classmethod
    def of(cls, marked: Bool[Array, "r n"], *, slots: int) -> IndexMap:
        """Marked entries in order, from the first slot on."""
        entries = marked.shape[1]
        source = jax.vmap(lambda row: jnp.nonzero(row, size=slots, fill_value=entries)[0])(marked)
        rank = jnp.cumsum(marked, axis=1) - 1
        return cls(source.astype(jnp.int32), jnp.where(marked & (rank < slots), rank, slots).astype(jnp.int32))

    @classmethod
    def placed(cls, marked: Bool[Array, "r n"], *, part: Int[Array, "r n"], parts: int, length: int) -> IndexMap:
        """Marked entries to the part of the slots each names, in order from that part's first slot on.

        Args:
          marked: entries that are to have a slot.
          part: which part, 0 and on; marked entries with one below 0 are dropped.
          parts, length: how many parts and slots of each; parts * length slots in all.
        """
        part = jnp.where(marked & (part >= 0), part, parts)
        order = jnp.argsort(part, axis=1, stable=True)
        counts = jax.vmap(lambda row: jnp.bincount(row, length=parts + 1))(part)
        start = jnp.cumsum(counts, axis=1) - counts
        rank = jnp.argsort(order, axis=1) - jnp.take_along_axis(start, part, axis=1)
        kept = (part < parts) & (rank < length)
        slot = jnp.where(kept, part * length + rank, parts * length)
        place = jnp.arange(length)
        taken = (start[:, :parts, None] + place).reshape(len(marked), -1)
        source = jnp.take_along_axis(order, jnp.minimum(taken, marked.shape[1] - 1), axis=1)
        filled = (place < counts[:, :parts, None]).reshape(len(marked), -1)
        return cls(jnp.where(filled, source, marked.shape[1]).astype(jnp.int32), slot.astype(jnp.int32))

    @property
    def filled(self) -> Bool[Array, "r s"]:
        """Slots that hold an entry."""
        return self.source < self.slot.shape[1]

    @property
    def kept(self) -> Bool[Array, "r n"]:
        """Entries that have a slot."""
        return self.slot < self.source.shape[1]

    def gather(self, entries: Array) -> Array:
        """[r, n, ...] -> [r, s, ...]; empty slots are zero."""
        return _take(entries, self.source)

    def scatter(self, slots: Array) -> Array:
        """[r, s, ...] -> [r, n, ...]; entries without a slot are zero."""
        return _take(slots, self.slot)


def _take(x: Array, index: Int[Array, "r k"]) -> Array:
    index = index.reshape(*index.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1, mode="fill", fill_value=0)
