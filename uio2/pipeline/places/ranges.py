"""Ranges of bytes of something long (a local file, a remote object, a part of either), and a file object over them."""

from __future__ import annotations

import io
import os
from typing import Any, Protocol

READ_AHEAD = 4 << 20


class Ranges(Protocol):
    """Bytes that are read piece by piece; pickles, and holds nothing open."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`, fewer only at the end of the file."""
        ...


class LocalRanges:
    """A file of this machine."""

    def __init__(self, path: str):
        self._path = path

    @property
    def size(self) -> int:
        return os.stat(self._path).st_size

    def read(self, start: int, end: int) -> bytes:
        with open(self._path, "rb", buffering=0) as file:
            file.seek(start)
            found = b""
            while len(found) < end - start and (more := file.read(end - start - len(found))):
                found += more
            return found


class Window:
    """A part of something longer."""

    def __init__(self, whole: Ranges, *, offset: int, size: int):
        self._whole = whole
        self._offset = offset
        self.size = size

    def read(self, start: int, end: int) -> bytes:
        return self._whole.read(self._offset + start, self._offset + min(end, self.size))


class _File(io.RawIOBase):
    """A raw, seekable file over ranges."""

    def __init__(self, ranges: Ranges):
        self._ranges = ranges
        self._size = ranges.size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(22, f"seek to {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readall(self) -> bytes:
        # The inherited one asks for 8 kB at a time.
        data = self._ranges.read(self._at, self._size) if self._at < self._size else b""
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        data = self._ranges.read(self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_ranges(ranges: Ranges, *, read_ahead: int = READ_AHEAD) -> io.BufferedReader:
    """A buffered, seekable file; at least `read_ahead` bytes are fetched at a time."""
    return io.BufferedReader(_File(ranges), buffer_size=read_ahead)
