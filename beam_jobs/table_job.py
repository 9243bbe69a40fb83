"""Jobs whose records are rows of tables: one row, or the rows of one key, are one example.

A dataset says how a row reads (`parse`), how an example is written (`encode`), what it holds (`count`, `features`). The
rest is here: streaming, places, dead letters of bad rows, splits, rows of one key.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from beam_jobs import sources, tables
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.job import Info, Record, Row
from beam_jobs.splits import hashed_split, named_split
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageError


@dataclasses.dataclass(frozen=True)
class TableFile:
    """One source file.

    Attributes:
      path: where it is.
      name: its path below the source's root; in keys and places.
      split: of all its rows; "" divides them by hashed key.
      layout: how it is to be read, where a dataset has several.
    """

    path: str
    name: str
    split: str = ""
    layout: str = ""


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A usable row: its key, its JSON value, what it counts beside the record, its split if the row says it."""

    key: str
    value: Any
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    split: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableJob(abc.ABC):
    """Base of the jobs. `row_kind` is the counted kind that a row which cannot be read takes with it."""

    files: tuple[TableFile, ...]
    validation_fraction: float
    name: str
    record_kind: str
    row_kind: str
    join_kinds: tuple[str, ...] = ("row",)

    def sources(self) -> Sequence[TableFile]:
        return self.files

    def items(self, source: TableFile) -> Iterator[tables.Item]:
        """The rows of a file."""
        return tables.rows(source.path)

    @abc.abstractmethod
    def parse(self, row: Mapping[str, Any], source: TableFile, index: int) -> Parsed:
        """Reads one row; raises BadRecord to drop it."""

    def read(self, source: TableFile) -> Iterator[Row | Letter | Info]:
        for index, item in self.items(source):
            try:
                if isinstance(item, BadRecord):
                    raise item
                parsed = self.parse(item, source, index)
            except BadRecord as bad:
                place, key = f"{source.name}:[{index}]", f"{source.name}:{index}"
                yield Letter(
                    key, self.row_kind, "read", bad.reason, bad.error, place, {self.row_kind: 1}, fault=bad.fault
                )
                continue
            value = {
                "value": parsed.value,
                "split": parsed.split or source.split,
                "at": [source.name, index],
                "counts": dict(parsed.counts),
            }
            yield Row(parsed.key, "row", value, parsed.counts)

    def assemble(
        self, key: str, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        first, *others = sorted(rows["row"], key=lambda r: r["at"])
        for row in others:
            drops = {self.record_kind: 1, **row["counts"]}
            error = f"the key is also that of {place_of(first)}"
            yield Letter(key, self.record_kind, "join", "duplicate_key", error, place_of(row), drops)
        yield self.record(key, first, first["value"], first["counts"])

    def record(self, key: str, row: Mapping[str, Any], value: Any, counts: Mapping[str, int]) -> Record:
        """The record of a key; split and place are those of `row`."""
        split = row["split"] or hashed_split(key, validation_fraction=self.validation_fraction)
        return Record(split, key, value, {self.record_kind: 1, **counts}, place_of(row))


def place_of(row: Mapping[str, Any]) -> str:
    """Where a row stands, without the folder."""
    name, index = row["at"]
    return f"{name}:[{index}]"


def table_files(
    root: AnyPlace, *, role: str, wanted: Callable[[str], bool] = tables.is_table, expected: str
) -> tuple[TableFile, ...]:
    """The tables at or below `root`, with the splits their names say.

    Raises:
      StageError: there is none; says what was expected.
    """
    found = []
    for path in sources.walk(root):
        name = path.name if path == root else sources.name_below(path, root)
        if wanted(path.name):
            found.append(TableFile(str(path), name, named_split(name)))
    if not found:
        raise StageError(f"{role} = {root}: no table in it; expected {expected}")
    return tuple(found)
