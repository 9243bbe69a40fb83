"""Writes one shard: reads the bytes that each of its records needs, checks, encodes, and publishes by rename.

Only joined annotations arrive here through the shuffle; image bytes go from their file straight into the shard.
A finished shard leaves a summary beside it. A killed build finds the summary, sees that the same records are asked
for, and keeps the shard instead of writing it again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from beam_jobs import work_files
from beam_jobs.ahead import encoded
from beam_jobs.dead_letters import BYTES, BadRecord, Letter, check_duplicate
from beam_jobs.job import Job, Record
from beam_jobs.quality.looks import SUFFIX, Notes
from beam_jobs.tf_example import Example
from beam_jobs.tfrecord import read_records, write_record

# Of the bytes of a dropped file, this much is kept where they are asked for.
MOST_KEPT = 16 << 20


@dataclasses.dataclass(frozen=True)
class Shard:
    """A written shard: its place in the dataset and what it should hold."""

    split: str
    index: int
    path: str
    records: int
    bytes: int
    asked: str
    letters: tuple[str, ...]


def shard_name(dataset: str, split: str, index: int, num_shards: int) -> str:
    """The file name TFDS expects."""
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{num_shards:05d}"


def write_shard(
    job: Job,
    *,
    split: str,
    index: int,
    num_shards: int,
    ordered: Iterable[tuple[int, Record]],
    folder: str,
    duplicates: str = "drop",
    keep_in: str | None = None,
    looks_wanted: bool = False,
) -> Shard:
    """Writes (or finds finished) one shard; bad records become letters, in the order of the records.

    `ordered` are (position, record) in order, of which one at a time is held; they are gone through twice where a
    finished shard has to be compared.

    With `keep_in`, bytes at fault are written below that folder, as the letters say. With `looks_wanted`, what was seen
    of pictures is kept beside the shard.

    Raises:
      StageError: two records have one key, and `duplicates` is `error`.
    """
    path = os.path.join(folder, shard_name(job.name, split, index, num_shards))
    if (done := _finished(path, ordered)) is not None:
        return done
    asked = hashlib.sha256()
    letters, written, size, seen, notes = [], 0, 0, None, Notes()
    with work_files.writer(path) as file:
        for record, encode in encoded(job, _told(ordered, asked), looks_wanted=looks_wanted):
            try:
                if record.key == seen:
                    raise BadRecord("duplicate_key", f"two records of split {split} have the key {record.key}")
                made = encode()
            except BadRecord as bad:
                letters.append(_letter(job, record, bad, keep_in=keep_in))
                check_duplicate(letters[-1], duplicates=duplicates)
                continue
            seen = record.key
            write_record(file, made.data)
            notes.add(made.looks)
            written += 1
            size += len(made.data)
    if looks_wanted:
        with work_files.writer(f"{path}{SUFFIX}") as file:
            notes.save(file)
    shard = Shard(split, index, path, written, size, asked.hexdigest(), tuple(letter.to_json() for letter in letters))
    with work_files.writer(_summary(path)) as file:
        file.write(json.dumps(dataclasses.asdict(shard)).encode())
    return shard


def _letter(job: Job, record: Record, bad: BadRecord, *, keep_in: str | None) -> Letter:
    kept = None
    if keep_in is not None and bad.data is not None:
        name = f"{BYTES}/{hashlib.sha256(bad.data).hexdigest()}"
        with work_files.writer(f"{keep_in}/{name}") as file:
            file.write(bad.data[:MOST_KEPT])
        kept = {"file": name, "size": len(bad.data)}
    drops = dict(record.counts)
    return Letter(
        record.key,
        job.record_kind,
        "write",
        bad.reason,
        bad.error,
        record.source,
        drops,
        fault=bad.fault,
        kept=kept,
    )


def _told(ordered: Iterable[tuple[int, Record]], digest: hashlib._Hash) -> Iterator[Record]:
    """The records, each told to the digest of what a shard was asked to hold."""
    for _, record in ordered:
        # `asdict` copies every value: half of what this took.
        digest.update(json.dumps(vars(record), sort_keys=True, default=str).encode())
        yield record


def _summary(path: str) -> str:
    return f"{path}.json"


def _finished(path: str, ordered: Iterable[tuple[int, Record]]) -> Shard | None:
    summary = work_files.read(_summary(path))
    if summary is None or not work_files.exists(path):
        return None
    value = json.loads(summary)
    asked = hashlib.sha256()
    for _ in _told(ordered, asked):
        pass
    if value["asked"] != asked.hexdigest() or value["path"] != path:
        return None
    return Shard(**{**value, "letters": tuple(value["letters"])})


@dataclasses.dataclass(frozen=True)
class ReadBack:
    """What a published shard really holds."""

    split: str
    index: int
    records: int
    bytes: int
    counts: dict[str, int]


def read_back(
    job: Job, *, split: str, index: int, path: str, observe: Callable[[Example], None] | None = None
) -> ReadBack:
    """Reads a published shard through, checking its sums, and counts what is in it; `observe` sees each example."""
    counts: dict[str, int] = {}
    records, size = 0, 0
    for data in _records(path):
        records += 1
        size += len(data)
        example = Example.from_bytes(data)
        if observe is not None:
            observe(example)
        for kind, n in job.count(example).items():
            counts[kind] = counts.get(kind, 0) + n
    return ReadBack(split, index, records, size, counts)


def _records(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from read_records(file, name=os.path.basename(path))


def sweep(folder: Path) -> int:
    """Removes what killed writers left behind; returns how many files."""
    left = [p for p in folder.glob("*.tmp-*") if p.is_file()] if folder.is_dir() else []
    for path in left:
        path.unlink()
    return len(left)


def group_sizes(shards: Sequence[Any]) -> dict[str, int]:
    """Records per split of written or re-read shards."""
    sizes: dict[str, int] = {}
    for shard in shards:
        sizes[shard.split] = sizes.get(shard.split, 0) + shard.records
    return sizes
