"""Rows of Parquet files, and the image bytes that published ones often hold, read only where they are written.

Columns that hold bytes, alone or as `{bytes, path}` (what the `datasets` library writes), are left out of the rows, so
that no image goes through a shuffle. A row's bytes are found again by its number; row groups are cached, for records of
one group come in any order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from beam_jobs.dead_letters import BadRecord
from beam_jobs.sources import open_binary
from uio2.pipeline.stage import StageError

_BATCH = 256
_GROUPS_KEPT = 4


def rows(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows in file order, without the columns that hold bytes.

    Raises:
      StageError: it is no Parquet file.
    """
    import pyarrow

    try:
        with open_binary(path) as file:
            index = 0
            table = _table(path, file)
            names = [field.name for field in table.schema_arrow if not _holds_bytes(field.type)]
            for batch in table.iter_batches(batch_size=_BATCH, columns=names):
                for row in batch.to_pylist():
                    yield index, row
                    index += 1
    except pyarrow.ArrowException as e:
        raise _damaged(path, e) from e


def bytes_columns(path: str) -> tuple[str, ...]:
    """Names of the columns that hold bytes."""
    with open_binary(path) as file:
        return tuple(field.name for field in _table(path, file).schema_arrow if _holds_bytes(field.type))


def read_bytes(path: str, *, column: str, row: int) -> bytes:
    """The bytes of one row.

    Raises:
      BadRecord: `image_missing` where the cell is empty.
    """
    group, first = _place(path, row)
    value = _group(path, column, group)[row - first]
    if isinstance(value, Mapping):
        value = next((v for v in value.values() if isinstance(v, bytes)), None)
    if value is None:
        raise BadRecord("image_missing", f"row {row} of {column} holds no bytes")
    return value


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)


def _table(path: str, file: Any) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowException as e:
        raise _damaged(path, e) from e


def _damaged(path: str, error: Exception) -> StageError:
    return StageError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}). Fetch the file again")


@functools.lru_cache(maxsize=64)
def _sizes(path: str) -> tuple[int, ...]:
    with open_binary(path) as file:
        metadata = _table(path, file).metadata
        return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))


def _place(path: str, row: int) -> tuple[int, int]:
    """The row group that holds a row, and the number of the group's first row."""
    first = 0
    for group, size in enumerate(_sizes(path)):
        if row < first + size:
            return group, first
        first += size
    raise StageError(f"{path}: no row {row}; the file has changed since it was read, build again")


@functools.lru_cache(maxsize=_GROUPS_KEPT)
def _group(path: str, column: str, group: int) -> list[Any]:
    with open_binary(path) as file:
        return _table(path, file).read_row_group(group, columns=[column]).column(column).to_pylist()
