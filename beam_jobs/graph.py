"""The Beam graph of a dataset: read, join by key, order by hashed key, write shards.

    sources -> ReadSource -> GroupByKey(key) -> Assemble -> (limit) -> GroupByKey(split, shard) -> WriteShard
                  |letters,tally,info               |letters,tally            |shard summaries with their letters

Every side result is a PCollection written as sorted JSON lines, not a counter: retried bundles count twice in
counters and once in a collection.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from beam_jobs import work_files
from beam_jobs.dead_letters import Letter
from beam_jobs.job import Job, Record, Row, order, shard_of
from beam_jobs.runner import marked
from beam_jobs.shards import Shard, read_back, write_shard
from beam_jobs.tfrecord import RecordError
from uio2.pipeline.stage import StageError

LETTERS, TALLY, INFO = "letters", "tally", "info"


class ReadSource(beam.DoFn):
    """Streams one source file into rows by key."""

    def __init__(self, job: Job):
        self._job = job

    def process(self, source: Any) -> Iterator[Any]:
        seen: dict[str, int] = {}
        try:
            for item in self._job.read(source):
                if isinstance(item, Row):
                    _add(seen, item.counts)
                    yield item.key, (item.kind, item.value)
                elif isinstance(item, Letter):
                    _add(seen, item.drops)
                    yield beam.pvalue.TaggedOutput(LETTERS, (item.file, item.to_json()))
                else:
                    yield beam.pvalue.TaggedOutput(INFO, (item.kind, json.dumps(item.value, sort_keys=True)))
        except StageError as e:
            raise marked(e) from e
        for kind, n in seen.items():
            yield beam.pvalue.TaggedOutput(TALLY, (f"in/{kind}", n))


class Assemble(beam.DoFn):
    """Joins the rows of one key into records ordered by hashed key."""

    def __init__(self, job: Job):
        self._job = job

    def process(self, element: tuple[Any, Iterable[tuple[str, Any]]], info: list[tuple[str, str]]) -> Iterator[Any]:
        key, pairs = element
        rows: dict[str, list] = {kind: [] for kind in self._job.join_kinds}
        for kind, value in pairs:
            rows[kind].append(value)
        whole = self._job.record_kind
        seen = 0
        for item in self._job.assemble(key, rows, info_by_kind(info)):
            if isinstance(item, Letter):
                seen += item.drops.get(whole, 0)
                yield beam.pvalue.TaggedOutput(LETTERS, (item.file, item.to_json()))
            else:
                seen += 1
                yield item.split, (order(self._job.name, item.split, item.key), item)
        if seen:
            yield beam.pvalue.TaggedOutput(TALLY, (f"in/{whole}", seen))


class KeepFirst(beam.DoFn):
    """Keeps the records up to a position per split; the rest is counted as `over_limit`."""

    def process(self, element: tuple[str, tuple[int, Record]], last: dict[str, list[int]]) -> Iterator[Any]:
        split, (position, record) = element
        if position <= last[split][-1]:
            yield element
        else:
            for kind, n in record.counts.items():
                yield beam.pvalue.TaggedOutput(TALLY, (f"over_limit/{kind}", n))


class WriteShards(beam.DoFn):
    """Writes the records of one (split, shard)."""

    def __init__(self, job: Job, num_shards: int, folder: str):
        self._job = job
        self._num_shards = num_shards
        self._folder = folder

    def process(self, element: tuple[tuple[str, int], Iterable[tuple[int, Record]]]) -> Iterator[str]:
        (split, index), ordered = element
        try:
            shard = write_shard(
                self._job, split=split, index=index, num_shards=self._num_shards, ordered=ordered, folder=self._folder
            )
        except StageError as e:
            raise marked(e) from e
        yield json.dumps(dataclasses.asdict(shard), sort_keys=True)


def build_graph(pipeline: beam.Pipeline, job: Job, *, num_shards: int, limit: int | None, folder: str) -> None:
    """Adds the whole build to `pipeline`; results are files below `folder`, see `beam_jobs.build`."""
    read = (
        pipeline
        | "Sources" >> beam.Create(list(job.sources()), reshuffle=True)
        | "Read" >> beam.ParDo(ReadSource(job)).with_outputs(LETTERS, TALLY, INFO, main="rows")
    )
    info = read[INFO] | "DistinctInfo" >> beam.Distinct()
    joined = (
        read["rows"]
        | "Join" >> beam.GroupByKey()
        | "Assemble" >> beam.ParDo(Assemble(job), beam.pvalue.AsList(info)).with_outputs(LETTERS, TALLY, main="records")
    )
    records, tallies = joined["records"], [read[TALLY], joined[TALLY]]
    if limit is not None:
        positions = records | "Positions" >> beam.MapTuple(lambda split, ordered: (split, ordered[0]))
        last = positions | "FirstPerSplit" >> beam.combiners.Top.SmallestPerKey(limit)
        kept = records | "Limit" >> beam.ParDo(KeepFirst(), beam.pvalue.AsDict(last)).with_outputs(TALLY, main="kept")
        records = kept["kept"]
        tallies.append(kept[TALLY])
    shards = (
        records
        | "ByShard"
        >> beam.MapTuple(lambda split, ordered: ((split, shard_of(ordered[0], num_shards=num_shards)), ordered))
        | "GroupByShard" >> beam.GroupByKey()
        | "WriteShards" >> beam.ParDo(WriteShards(job, num_shards, os.path.join(folder, "shards")))
    )
    tally = tallies | "AllTallies" >> beam.Flatten() | "Sum" >> beam.CombinePerKey(sum)
    _save(tally | "TallyLines" >> beam.Map(json.dumps), "tally", folder)
    _save(info | "InfoLines" >> beam.Map(json.dumps), "info", folder)
    _save(shards, "written", folder)
    letters = [read[LETTERS], joined[LETTERS]] | "AllLetters" >> beam.Flatten()
    (
        letters
        | "LettersByFile" >> beam.GroupByKey()
        | "SaveLetters" >> beam.MapTuple(lambda name, lines: save_lines(os.path.join(folder, "letters", name), lines))
    )


def verify_graph(pipeline: beam.Pipeline, job: Job, shards: list[Shard], *, folder: str) -> None:
    """Adds the re-reading of published shards; the result is `FOLDER/read_back.jsonl`."""
    lines = (
        pipeline
        | "Shards" >> beam.Create([(s.split, s.index, s.path) for s in shards], reshuffle=True)
        | "ReadBack" >> beam.MapTuple(lambda split, index, path: _read_back_line(job, split, index, path))
    )
    _save(lines, "read_back", folder)


def _read_back_line(job: Job, split: str, index: int, path: str) -> str:
    try:
        found = read_back(job, split=split, index=index, path=path)
    except RecordError as e:
        raise marked(StageError(f"a published shard cannot be read back: {e}. Is the disk full or failing?")) from e
    return json.dumps(dataclasses.asdict(found), sort_keys=True)


def info_by_kind(pairs: Iterable[tuple[str, str]]) -> dict[str, list[Any]]:
    """Dataset facts by kind, in a fixed order."""
    found: dict[str, list[Any]] = {}
    for kind, text in sorted(pairs):
        found.setdefault(kind, []).append(json.loads(text))
    return found


def save_lines(path: str, lines: Iterable[str]) -> None:
    """Writes sorted lines."""
    with work_files.writer(path) as file:
        file.writelines(f"{line}\n".encode() for line in sorted(lines))


def _save(lines: beam.PCollection, name: str, folder: str) -> None:
    path = os.path.join(folder, f"{name}.jsonl")
    _ = (
        lines
        | f"{name}ToList" >> beam.combiners.ToList()
        | f"{name}Save" >> beam.Map(lambda found: save_lines(path, found))
    )


def _add(total: dict[str, int], counts: Any) -> None:
    for kind, n in counts.items():
        total[kind] = total.get(kind, 0) + n
