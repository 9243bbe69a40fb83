"""Brings what belongs together to one place: rows of one key, records of one shard.

Where all workers share this machine's disk, values are put in order there (`beam_jobs.runs`) and only where they lie
goes through Beam's shuffle: the local runners keep shuffles in memory, more than twice the size of what is in them.
Where results go to a store, the values themselves go through the runner's shuffle, which is made for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs.job import Record
from beam_jobs.runs import FOLDER, RunWriter, Slice, merged
from beam_jobs.values import pack, unpack
from uio2.pipeline.places import is_remote

_PARTS = 64  # of rows: so many pieces of work
_ORDER = 8  # bytes


def folder_of(folder: str) -> str | None:
    """Where values are put in order by a graph that leaves its results in `folder`; None: not on a disk."""
    return None if is_remote(folder) else os.path.join(folder, FOLDER)


class RowsByKey(beam.PTransform):
    """(key, row) ... -> (key, rows), the rows of a key in any order."""

    def __init__(self, folder: str | None):
        super().__init__()
        self._folder = folder

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        if self._folder is None:
            return rows | beam.GroupByKey()
        return (
            rows | beam.ParDo(SpillRows(self._folder)) | beam.GroupByKey() | beam.FlatMapTuple(lambda _, s: _groups(s))
        )


class RecordsInOrder(beam.PTransform):
    """(place, (position, record)) ... -> (place, pairs); the pairs are in order and can be gone through again."""

    def __init__(self, folder: str | None):
        super().__init__()
        self._folder = folder

    def expand(self, records: beam.PCollection) -> beam.PCollection:
        if self._folder is None:
            return records | beam.GroupByKey() | beam.MapTuple(lambda place, pairs: (place, sorted(pairs, key=_sort)))
        spilled = records | beam.ParDo(SpillRecords(self._folder)) | beam.GroupByKey()
        return spilled | beam.MapTuple(lambda place, slices: (place, OnDisk(tuple(slices))))


class Spill(beam.DoFn):
    """Writes the values of a bundle into runs, and gives (part, slice): files of a bundle that failed are in none."""

    def __init__(self, folder: str):
        self._folder = folder

    def start_bundle(self) -> None:
        self._runs = RunWriter(self._folder)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        for part, place in self._runs.finish():
            yield WindowedValue((part, tuple(place)), window.max_timestamp(), (window,))


class SpillRows(Spill):
    """Rows by key, in parts of many keys each."""

    def process(self, element: tuple[Any, Any]) -> None:
        name = repr(element[0]).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(name, digest_size=_ORDER).digest()
        self._runs.add(digest[0] % _PARTS, digest + name, pack(element))


class SpillRecords(Spill):
    """Records by their place; a part is one place."""

    def process(self, element: tuple[Any, tuple[int, Record]]) -> None:
        place, pair = element
        position, *names = _sort(pair)
        sort = position.to_bytes(_ORDER, "big") + "\0".join(names).encode("utf-8", "surrogatepass")
        self._runs.add(place, sort, pack(pair))


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """The (position, record) pairs of a place, read in order as often as they are asked for."""

    slices: tuple[tuple[str, int, int], ...]

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        for _, data in merged(Slice(*place) for place in self.slices):
            yield unpack(data)


def _groups(slices: Iterable[tuple[str, int, int]]) -> Iterator[tuple[Any, list[Any]]]:
    values = merged(Slice(*place) for place in slices)
    for _, same in itertools.groupby(values, key=lambda value: value[0]):
        pairs = [unpack(data) for _, data in same]
        yield pairs[0][0], [row for _, row in pairs]


def _sort(pair: tuple[int, Record]) -> tuple[int, str, str]:
    position, record = pair
    # Of two records with one key the first stays; which it is must not depend on who came first.
    return position, record.key, record.source
