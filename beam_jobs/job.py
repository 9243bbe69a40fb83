"""What a dataset is to the Beam pipeline: how its sources are read, joined by key, and encoded.

A job is a small frozen dataclass that pickles (it travels to the workers) and holds only settings and paths.
`beam_jobs.build` does the rest: joining, sharding, dead letters, accounting, metadata.

    read(source)   -> Row, Letter, Info ...      one source file, streamed
    assemble(rows) -> Record, Letter ...         all rows of one key, without image bytes
    encode(record) -> serialised tf.Example      reads and checks the image bytes, where they are written
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from beam_jobs.dead_letters import Letter


@dataclasses.dataclass(frozen=True)
class Row:
    """One annotation on its way to the join.

    Attributes:
      key: what rows are joined by (an image id).
      kind: what it is, for example `caption`.
      value: JSON values; small, for it goes through the shuffle.
      counts: how many records of each accounted kind it brings in.
    """

    key: int | str
    kind: str
    value: Any
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Info:
    """A fact about the whole dataset that the join and the metadata need, for example a category."""

    kind: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Record:
    """One future example.

    Attributes:
      split: `train`, `validation`, ...
      key: unique in its split.
      value: what `encode` needs, without large bytes.
      counts: how many records of each accounted kind are in it.
      source: where it came from, for dead letters.
    """

    split: str
    key: str
    value: Any
    counts: Mapping[str, int]
    source: str


class Job(Protocol):
    """A dataset; see the module's docstring. `record_kind` names a whole record in the counts."""

    @property
    def name(self) -> str: ...

    @property
    def record_kind(self) -> str: ...

    @property
    def join_kinds(self) -> tuple[str, ...]: ...

    def sources(self) -> Sequence[Any]:
        """The source files to read, each a small picklable value."""
        ...

    def read(self, source: Any) -> Iterator[Row | Letter | Info]:
        """Streams one source file."""
        ...

    def assemble(
        self, key: Any, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        """Joins the values of one key, by kind."""
        ...

    def encode(self, record: Record) -> bytes:
        """The serialised `tf.train.Example`; raises `BadRecord` to drop it."""
        ...

    def count(self, example: Any) -> Mapping[str, int]:
        """How many records of each accounted kind a re-read `Example` holds."""
        ...

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        """The TFDS `FeaturesDict` of what `encode` writes."""
        ...


def order(name: str, split: str, key: str) -> int:
    """A 64-bit hash: the order of records in a dataset, and so their shard; the same everywhere."""
    digest = hashlib.blake2b(f"{name}/{split}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def shard_of(position: int, *, num_shards: int) -> int:
    """The shard that holds a 64-bit `order`: equal ranges, so shards in turn hold all records in order."""
    return (position * num_shards) >> 64
