"""TFRecord files: length, masked CRC-32C of the length, data, masked CRC-32C of the data.

Written and read record by record, so memory does not grow with the file; the reader checks both sums.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

_MASK = 0xA282EAD8


class RecordError(Exception):
    """A TFRecord file that is cut short or whose sums do not match."""


def _masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def write_record(file: BinaryIO, data: bytes) -> None:
    """Appends one record."""
    length = struct.pack("<Q", len(data))
    file.write(length + struct.pack("<I", _masked(length)))
    file.write(data)
    file.write(struct.pack("<I", _masked(data)))


def read_records(file: BinaryIO, *, name: str) -> Iterator[bytes]:
    """Yields the records of an open file.

    Raises:
      RecordError: naming `name` and the byte where it went wrong.
    """
    at = 0
    while head := file.read(12):
        if len(head) < 12 or struct.unpack("<I", head[8:])[0] != _masked(head[:8]):
            raise RecordError(f"{name}: bad record header at byte {at}; the file is cut short or damaged")
        (length,) = struct.unpack("<Q", head[:8])
        data, tail = file.read(length), file.read(4)
        if len(tail) < 4 or struct.unpack("<I", tail)[0] != _masked(data):
            raise RecordError(f"{name}: bad record data at byte {at}; the file is cut short or damaged")
        at += length + 16
        yield data
