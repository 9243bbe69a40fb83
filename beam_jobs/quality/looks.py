"""How pictures look, noted where they are decoded to be checked, so that the report need not decode them once more.

A shard's notes lie beside it, one row per record. Each holds the checksum of the picture's bytes: what was noted of
other bytes is not believed, and the picture is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import BinaryIO

import google_crc32c
import numpy as np

from beam_jobs.quality.hashes import Look

SUFFIX = ".looks"
_ROW = np.dtype([("sum", "<u4"), ("width", "<u4"), ("height", "<u4"), ("format", "S12"), ("hash", "<u8")])
_noted: ContextVar[list[bytes] | None] = ContextVar("noted", default=None)


@contextmanager
def noting() -> Iterator[list[bytes]]:
    """Collects a row for each picture that `note` is told of inside."""
    rows: list[bytes] = []
    token = _noted.set(rows)
    try:
        yield rows
    finally:
        _noted.reset(token)


def wanted() -> bool:
    """Whether anybody collects looks."""
    return _noted.get() is not None


def note(data: bytes, look: Look) -> None:
    """Tells how a picture looks that is going to be stored as these bytes."""
    if (rows := _noted.get()) is not None:
        row = (google_crc32c.value(data), look.width, look.height, look.format.encode(), look.hash)
        rows.append(np.array(row, _ROW).tobytes())


class Notes:
    """The rows of a shard's records, in their order."""

    def __init__(self, rows: np.ndarray | None = None):
        self._rows = np.zeros(0, _ROW) if rows is None else rows
        self._new = bytearray()

    def add(self, rows: list[bytes]) -> None:
        """Those of one record: of several pictures it is not known which is the record's."""
        self._new += rows[0] if len(rows) == 1 else bytes(_ROW.itemsize)

    def save(self, file: BinaryIO) -> None:
        """Writes what was added."""
        file.write(self._new)

    @classmethod
    def load(cls, data: bytes | None) -> Notes:
        """What `save` wrote; none of None."""
        return cls(None if data is None else np.frombuffer(data, _ROW))

    def look(self, record: int, data: bytes) -> Look | None:
        """The look of a record's picture, if it was noted of these bytes."""
        if record >= len(self._rows):
            return None
        row = self._rows[record]
        if not row["format"] or row["sum"] != google_crc32c.value(data):
            return None
        return Look(int(row["width"]), int(row["height"]), row["format"].decode(), int(row["hash"]))
