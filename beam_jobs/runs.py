"""Values put in order on disk: sorted runs of bounded size, merged as they are read.

A `RunWriter` takes (part, sort key, bytes) in any order and holds no more than one run of them. What it leaves are
`Slice`s: of every run, where each part lies. All slices of a part, whoever wrote them, merge into its values in the
order of sort keys, one held at a time.
"""

from __future__ import annotations

import heapq
import os
import struct
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

FOLDER = "rows"
RUN_BYTES = 8 << 20
# Files that a merge has open; the usual limit of a process is 1024.
MOST_RUNS = 128
_BESIDE = 150  # what Python holds of a value beside its bytes
_FRAME = struct.Struct("<II")
_BUFFER = 1 << 16


class Slice(NamedTuple):
    """A part in one run: bytes `start` to `end` of a file."""

    path: str
    start: int
    end: int


class RunWriter:
    """Writes runs into a folder; the memory it takes is that of one run, or of `most_runs` buffers."""

    def __init__(self, folder: str, *, run_bytes: int = RUN_BYTES, most_runs: int = MOST_RUNS):
        self._folder = folder
        self._run_bytes = run_bytes
        self._most_runs = most_runs
        self._values: list[tuple[Any, bytes, bytes]] = []
        self._size = 0
        self._runs: list[dict[Any, Slice]] = []

    def add(self, part: Any, sort: bytes, data: bytes) -> None:
        """Takes one value; `part` is anything that can be ordered and hashed, the same kind of thing each time."""
        self._values.append((part, sort, data))
        self._size += len(sort) + len(data) + _BESIDE
        if self._size >= self._run_bytes:
            self._flush()

    def finish(self) -> Iterator[tuple[Any, Slice]]:
        """Each part of each run, when all values have come."""
        self._flush()
        for run in self._runs:
            yield from run.items()

    def _flush(self) -> None:
        if self._values:
            self._values.sort()
            self._runs.append(self._write(iter(self._values)))
        self._values, self._size = [], 0
        if len(self._runs) > self._most_runs:
            # The smaller half, so that no value is written again more than a few times.
            self._runs.sort(key=_length)
            half = self._most_runs // 2 + 1
            self._runs[:half] = [self._merge(self._runs[:half])]

    def _merge(self, runs: list[dict[Any, Slice]]) -> dict[Any, Slice]:
        parts = sorted({part for run in runs for part in run})
        values = ((p, *value) for p in parts for value in merged(run[p] for run in runs if p in run))
        together = self._write(values)
        for path in {place.path for run in runs for place in run.values()}:
            os.unlink(path)
        return together

    def _write(self, values: Iterator[tuple[Any, bytes, bytes]]) -> dict[Any, Slice]:
        os.makedirs(self._folder, exist_ok=True)
        path = os.path.join(self._folder, uuid.uuid4().hex)
        found: dict[Any, Slice] = {}
        at = 0
        with open(path, "wb", buffering=_BUFFER) as file:
            for part, sort, data in values:
                start = found[part].start if part in found else at
                file.write(_FRAME.pack(len(sort), len(data)))
                file.write(sort)
                file.write(data)
                at += _FRAME.size + len(sort) + len(data)
                found[part] = Slice(path, start, at)
        return found


def merged(slices: Iterable[Slice]) -> Iterator[tuple[bytes, bytes]]:
    """(sort key, bytes) of the slices of one part, in order."""
    return heapq.merge(*map(_read, slices))


def _read(place: Slice) -> Iterator[tuple[bytes, bytes]]:
    with open(place.path, "rb", buffering=_BUFFER) as file:
        file.seek(place.start)
        at = place.start
        while at < place.end:
            sort, data = _FRAME.unpack(file.read(_FRAME.size))
            at += _FRAME.size + sort + data
            yield file.read(sort), file.read(data)


def _length(run: dict[Any, Slice]) -> int:
    return sum(place.end - place.start for place in run.values())
