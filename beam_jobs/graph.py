"""The Beam graph of a dataset: read, join by key, order by hashed key, write shards.

    sources -> ReadSource -> RowsByKey -> Assemble -> (limit) -> RecordsInOrder(split, shard) -> WriteShard
                  |letters,tally,info         |letters,tally            |shard summaries with their letters

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

from beam_jobs import exchange, work_files
from beam_jobs.dead_letters import BadRecord, Letter, check_duplicate
from beam_jobs.job import Job, Record, Row, order, shard_of
from beam_jobs.quality.figures import Collector, Figures
from beam_jobs.quality.layout import Layout
from beam_jobs.quality.looks import SUFFIX, Notes
from beam_jobs.runner import marked
from beam_jobs.shards import Shard, read_back, write_shard
from beam_jobs.tfrecord import RecordError
from uio2.pipeline.stage import StageError

LETTERS, TALLY, INFO, FIGURES = "letters", "tally", "info", "figures"
SHARDS = "shards"
_RANGES = 64  # of a split's records, while the limit is found


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

    def __init__(self, job: Job, duplicates: str):
        self._job = job
        self._duplicates = duplicates

    def process(self, element: tuple[Any, Iterable[tuple[str, Any]]], info: list[tuple[str, str]]) -> Iterator[Any]:
        try:
            yield from self._joined(*element, info)
        except StageError as e:
            raise marked(e) from e

    def _joined(self, key: Any, pairs: Iterable[tuple[str, Any]], info: list[tuple[str, str]]) -> Iterator[Any]:
        rows: dict[str, list] = {kind: [] for kind in self._job.join_kinds}
        for kind, value in pairs:
            rows[kind].append(value)
        whole = self._job.record_kind
        seen = 0
        for item in self._job.assemble(key, rows, info_by_kind(info)):
            if isinstance(item, Letter):
                check_duplicate(item, duplicates=self._duplicates)
                seen += item.drops.get(whole, 0)
                yield beam.pvalue.TaggedOutput(LETTERS, (item.file, item.to_json()))
            else:
                seen += 1
                yield item.split, (order(self._job.name, item.split, item.key), item)
        if seen:
            yield beam.pvalue.TaggedOutput(TALLY, (f"in/{whole}", seen))


class KeepFirst(beam.DoFn):
    """Keeps the records up to a position per split; the rest is counted as `over_limit`."""

    def process(
        self, element: tuple[tuple[str, int], Iterable[tuple[int, Record]]], last: dict[str, list[int]]
    ) -> Iterator[Any]:
        (split, _), ordered = element
        over: dict[str, int] = {}
        for position, record in ordered:
            if position <= last[split][-1]:
                yield split, (position, record)
            else:
                _add(over, record.counts)
        for kind, n in over.items():
            yield beam.pvalue.TaggedOutput(TALLY, (f"over_limit/{kind}", n))


class WriteShards(beam.DoFn):
    """Writes the records of one (split, shard)."""

    def __init__(self, job: Job, num_shards: int, folder: str, *, duplicates: str, keep_bytes: bool, looks: bool):
        self._job = job
        self._num_shards = num_shards
        self._folder = os.path.join(folder, SHARDS)
        self._duplicates = duplicates
        self._keep_in = folder if keep_bytes else None
        self._looks = looks

    def process(self, element: tuple[tuple[str, int], Iterable[tuple[int, Record]]]) -> Iterator[str]:
        (split, index), ordered = element
        try:
            shard = write_shard(
                self._job,
                split=split,
                index=index,
                num_shards=self._num_shards,
                ordered=ordered,
                folder=self._folder,
                duplicates=self._duplicates,
                keep_in=self._keep_in,
                looks_wanted=self._looks,
            )
        except StageError as e:
            raise marked(e) from e
        yield json.dumps(dataclasses.asdict(shard), sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Joined:
    """What the first half of a build leaves: (split, (position, record)) and the side results."""

    records: beam.PCollection
    info: beam.PCollection
    tallies: tuple[beam.PCollection, ...]
    letters: tuple[beam.PCollection, ...]


def join_graph(pipeline: beam.Pipeline, job: Job, *, limit: int | None, folder: str, duplicates: str) -> Joined:
    """Adds reading, joining and the limit to `pipeline`; what is left below `folder` is of use to this graph alone."""
    rows_in = exchange.folder_of(folder)
    read = (
        pipeline
        | "Sources" >> beam.Create(list(job.sources()), reshuffle=True)
        | "Read" >> beam.ParDo(ReadSource(job)).with_outputs(LETTERS, TALLY, INFO, main="rows")
    )
    info = read[INFO] | "DistinctInfo" >> beam.Distinct()
    assemble = beam.ParDo(Assemble(job, duplicates), beam.pvalue.AsList(info))
    joined = (
        read["rows"]
        | "Join" >> exchange.RowsByKey(rows_in)
        | "Assemble" >> assemble.with_outputs(LETTERS, TALLY, main="records")
    )
    records, tallies = joined["records"], [read[TALLY], joined[TALLY]]
    if limit is not None:
        positions = records | "Positions" >> beam.MapTuple(lambda split, ordered: (split, ordered[0]))
        last = positions | "FirstPerSplit" >> beam.combiners.Top.SmallestPerKey(limit)
        # All records have to be waited for, so they lie elsewhere than in memory for that time.
        kept = (
            records
            | "ByRange"
            >> beam.MapTuple(lambda split, ordered: ((split, shard_of(ordered[0], num_shards=_RANGES)), ordered))
            | "GroupByRange" >> exchange.RecordsInOrder(rows_in)
            | "Limit" >> beam.ParDo(KeepFirst(), beam.pvalue.AsDict(last)).with_outputs(TALLY, main="kept")
        )
        records = kept["kept"]
        tallies.append(kept[TALLY])
    return Joined(records, info, tuple(tallies), (read[LETTERS], joined[LETTERS]))


def build_graph(
    pipeline: beam.Pipeline,
    job: Job,
    *,
    num_shards: int,
    limit: int | None,
    folder: str,
    duplicates: str,
    keep_bytes: bool,
    looks: bool,
) -> None:
    """Adds the whole build to `pipeline`; results are files below `folder`, see `beam_jobs.build`."""
    joined = join_graph(pipeline, job, limit=limit, folder=folder, duplicates=duplicates)
    shards = (
        joined.records
        | "ByShard"
        >> beam.MapTuple(lambda split, ordered: ((split, shard_of(ordered[0], num_shards=num_shards)), ordered))
        | "GroupByShard" >> exchange.RecordsInOrder(exchange.folder_of(folder))
        | "WriteShards"
        >> beam.ParDo(WriteShards(job, num_shards, folder, duplicates=duplicates, keep_bytes=keep_bytes, looks=looks))
    )
    save_side_results(joined, folder)
    _save(shards, "written", folder)


def save_side_results(joined: Joined, folder: str) -> None:
    """Writes tallies, facts and dead letters below `folder`."""
    tally = joined.tallies | "AllTallies" >> beam.Flatten() | "Sum" >> beam.CombinePerKey(sum)
    _save(tally | "TallyLines" >> beam.Map(json.dumps), "tally", folder)
    _save(joined.info | "InfoLines" >> beam.Map(json.dumps), "info", folder)
    (
        joined.letters
        | "AllLetters" >> beam.Flatten()
        | "LettersByFile" >> beam.GroupByKey()
        | "SaveLetters" >> beam.MapTuple(lambda name, lines: save_lines(os.path.join(folder, "letters", name), lines))
    )


class Sample(beam.DoFn):
    """Encodes a record of the sample: its split and size, or why it would be dropped."""

    def __init__(self, job: Job):
        self._job = job

    def process(self, element: tuple[str, tuple[int, Record]]) -> Iterator[str]:
        split, (_, record) = element
        try:
            size, reason = len(self._job.encode(record)), ""
        except BadRecord as bad:
            size, reason = 0, bad.reason
        except StageError as e:
            raise marked(e) from e
        yield json.dumps([split, size, reason])


def preview_graph(pipeline: beam.Pipeline, job: Job, *, limit: int | None, sample: int, folder: str, duplicates: str):
    """Adds what a dry run looks at: everything joined and counted, the first `sample` records of each split encoded."""
    joined = join_graph(pipeline, job, limit=limit, folder=folder, duplicates=duplicates)
    save_side_results(joined, folder)
    sizes = (
        joined.records
        | "Splits" >> beam.MapTuple(lambda split, ordered: (split, 1))
        | "CountSplits" >> beam.CombinePerKey(sum)
    )
    _save(sizes | "SplitLines" >> beam.Map(json.dumps), "splits", folder)
    first = (
        joined.records
        | "SampleFirst" >> beam.combiners.Top.SmallestPerKey(sample, key=lambda ordered: ordered[0])
        | "SampleEach" >> beam.FlatMapTuple(lambda split, chosen: [(split, ordered) for ordered in chosen])
        | "SampleEncode" >> beam.ParDo(Sample(job))
    )
    _save(first, "sample", folder)


def verify_graph(pipeline: beam.Pipeline, job: Job, layout: Layout, shards: list[Shard], *, folder: str) -> None:
    """Adds the re-reading of published shards: `FOLDER/read_back.jsonl`, and the counts of `beam_jobs.quality`."""
    again = beam.ParDo(ReadShardBack(job, layout, os.path.join(folder, SHARDS)))
    read = (
        pipeline
        | "Shards" >> beam.Create([(i, s.split, s.index, s.path) for i, s in enumerate(shards)], reshuffle=True)
        | "ReadBack" >> again.with_outputs(FIGURES, main="lines")
    )
    _save(read["lines"], "read_back", folder)
    _ = (
        read[FIGURES]
        | "AddFigures" >> beam.CombineGlobally(AddFigures())
        | "SaveFigures" >> beam.Map(lambda figures: figures.save(folder))
    )


class ReadShardBack(beam.DoFn):
    """Reads one published shard through: what it holds, and its figures of quality."""

    def __init__(self, job: Job, layout: Layout, notes: str):
        self._job = job
        self._layout = layout
        self._notes = notes

    def process(self, element: tuple[int, str, int, str]) -> Iterator[Any]:
        number, split, index, path = element
        # What is published is a link to, or a copy of, what lies beside its notes.
        noted = work_files.read(os.path.join(self._notes, os.path.basename(path) + SUFFIX))
        collect = Collector(self._layout, split=split, shard=number, notes=Notes.load(noted))
        try:
            found = read_back(self._job, split=split, index=index, path=path, observe=collect)
        except RecordError as e:
            error = StageError(f"a published shard cannot be read back: {e}. Is the disk full or failing?")
            raise marked(error) from e
        yield json.dumps(dataclasses.asdict(found), sort_keys=True)
        yield beam.pvalue.TaggedOutput(FIGURES, collect.finish())


class AddFigures(beam.CombineFn):
    """Adds the figures of shards up, in any order."""

    def create_accumulator(self) -> Figures:
        return Figures()

    def add_input(self, accumulator: Figures, element: Figures) -> Figures:
        accumulator.merge(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Figures]) -> Figures:
        total = Figures()
        for figures in accumulators:
            total.merge(figures)
        return total

    def extract_output(self, accumulator: Figures) -> Figures:
        return accumulator


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
