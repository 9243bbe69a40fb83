"""Rows of the encoder and the decoder: where each modality's tokens stand (spec: MODEL.md sections 1, 7).

Segments are placed one after another; `fold` puts several examples in one row and `length` moves the real tokens to
the front of a row of that length; an `Assignment` does both for any number of examples per row. All are one
placement, of which `Row` remembers what is needed to bring hidden states back; the plain case is a concatenation and
gathers nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from uio2.model.index_map import IndexMap
from uio2.model.parts import ConfigError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
    """Tokens of one modality, or of several placed in one row.

    Attributes:
      embed: [b, t, d].
      mask: bool [b, t], real tokens.
      rotary: float32 [b, t, head_dim/2, 2], or None when the model has no positions.
      segment_ids: int32 [b, t]; in self-attention tokens see only their own segment. None: all are one segment.
      example_ids: int32 [b, t], which example of its row a token belongs to. None: a row is one example.
    """

    embed: Float[Array, "b t d"]
    mask: Bool[Array, "b t"]
    rotary: Array | None = None
    segment_ids: Int[Array, "b t"] | None = None
    example_ids: Int[Array, "b t"] | None = None

    def self_mask(self) -> Bool[Array, "b t t"]:
        """Who may see whom, order aside."""
        pair = self.mask[:, :, None] & self.mask[:, None, :]
        return pair if self.segment_ids is None else pair & _equal(self.segment_ids, self.segment_ids)

    def cross_mask(self, source: Segment) -> Bool[Array, "b t s"]:
        """Which tokens of the encoder's row each token may see."""
        pair = self.mask[:, :, None] & source.mask[:, None, :]
        if self.example_ids is None or source.example_ids is None:
            return pair
        return pair & _equal(self.example_ids, source.example_ids)


def _equal(a: Int[Array, "b t"], b: Int[Array, "b s"]) -> Bool[Array, "b t s"]:
    return a[:, :, None] == b[:, None, :]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Row:
    """Placed segments and the way back.

    Attributes:
      tokens: what the transformer sees, [rows, row length].
      index_map: how the concatenated tokens were packed; None when they stayed where they were.
      lengths: tokens per example of each segment.
      fold: examples per row; of examples that are spread over several rows, per group of rows.
    """

    tokens: Segment
    index_map: IndexMap | None
    lengths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    fold: int = dataclasses.field(metadata={"static": True})

    def split(self, hidden: Float[Array, "r l d"]) -> list[Float[Array, "b t d"]]:
        """The segments' hidden states; zero at tokens that packing left out."""
        if self.index_map is None:
            return self._parts(hidden)
        slots = hidden.reshape(len(self.index_map.source), -1, hidden.shape[-1])
        return self._parts(self.index_map.scatter(slots))

    def placed(self) -> list[Bool[Array, "b t"]] | None:
        """The segments' tokens that have a place in a row of limited length; None when none is limited."""
        return None if self.index_map is None else self._parts(self.index_map.kept)

    def _parts(self, x: Array) -> list[Array]:
        parts, start = [], 0
        for length in self.lengths:
            part = x[:, start : start + self.fold * length]
            parts.append(part.reshape(-1, length, *x.shape[2:]))
            start += self.fold * length
        return parts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Assignment:
    """Which row each example goes to. The batch is g groups of e examples, a group has r rows of its own.

    Attributes:
      row: int32 [g, e], in the group; below 0 for a place without an example.
      rows: r.
    """

    row: Int[Array, "g e"]
    rows: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, batch: Mapping[str, Array]) -> Assignment | None:
        """As a packed batch gives it; None for a batch that is not packed."""
        if "packing/row" not in batch:
            return None
        return cls(jnp.asarray(batch["packing/row"]), batch["packing/examples"].shape[1])


def assemble(
    segments: Sequence[Segment], *, fold: int = 1, length: int | None = None, assignment: Assignment | None = None
) -> Row:
    """Places segments in rows: modality after modality, within it example after example.

    Args:
      segments: in the order of the row, equal numbers of examples.
      fold: examples per row; consecutive ones share it and do not see each other.
      length: pack real tokens to the front of rows of this length; those beyond it are dropped. None: masked
        positions stay where they are.
      assignment: any number of examples per row, in place of `fold`; needs a length.

    Raises:
      ConfigError: nothing to place, or examples that do not fill the rows.
    """
    if not segments:
        raise ConfigError("the batch holds no modality of this model; expected at least one input and one target")
    examples = segments[0].mask.shape[0]
    if assignment is not None:
        if fold != 1 or length is None or assignment.row.size != examples:
            raise ConfigError(
                f"the batch assigns {assignment.row.size} examples to rows; expected its {examples} examples, "
                f"fold 1 and a length of the rows (horizontally_pack_inputs and _targets); got fold {fold}, "
                f"length {length}"
            )
        return _assigned(segments, assignment, length)
    if examples % fold:
        raise ConfigError(f"fold is {fold}; expected a divisor of the {examples} examples of the batch")
    lengths = tuple(s.mask.shape[1] for s in segments)
    row = _concatenate([_fold(s, fold) for s in segments])
    if length is None:
        return Row(row, None, lengths, fold)
    index_map = IndexMap.of(row.mask, slots=length)
    return Row(jax.tree.map(index_map.gather, row), index_map, lengths, fold)


def _assigned(segments: Sequence[Segment], assignment: Assignment, length: int) -> Row:
    """A group's tokens one after another, as if folded, and from there each to its row."""
    groups, fold = assignment.row.shape
    lengths = tuple(s.mask.shape[1] for s in segments)
    row = _concatenate([_fold(s, fold) for s in segments])
    part = _join([jnp.repeat(assignment.row, count, axis=1) for count in lengths])
    index_map = IndexMap.placed(row.mask, part=part, parts=assignment.rows, length=length)

    def place(x: Array) -> Array:
        return index_map.gather(x).reshape(groups * assignment.rows, length, *x.shape[2:])

    return Row(jax.tree.map(place, row), index_map, lengths, fold)


def _fold(segment: Segment, fold: int) -> Segment:
    if fold == 1:
        return segment
    examples, length = segment.mask.shape
    ids = jnp.broadcast_to(jnp.repeat(jnp.arange(fold, dtype=jnp.int32), length), (examples // fold, fold * length))
    folded = jax.tree.map(lambda x: x.reshape(examples // fold, fold * length, *x.shape[2:]), segment)
    segments = ids if folded.segment_ids is None else folded.segment_ids * fold + ids
    return dataclasses.replace(folded, segment_ids=segments, example_ids=ids)


def _concatenate(segments: list[Segment]) -> Segment:
    if len(segments) == 1:
        return segments[0]

    def ids(get: Callable[[Segment], Array | None]) -> Array | None:
        if all(get(s) is None for s in segments):
            return None
        return _join([jnp.zeros(s.mask.shape, jnp.int32) if get(s) is None else get(s) for s in segments])

    return Segment(
        _join([s.embed for s in segments]),
        _join([s.mask for s in segments]),
        None if segments[0].rotary is None else _join([s.rotary for s in segments]),
        ids(lambda s: s.segment_ids),
        ids(lambda s: s.example_ids),
    )


def _join(parts: Sequence[Array | None]) -> Array:
    return jnp.concatenate([part for part in parts if part is not None], axis=1)
