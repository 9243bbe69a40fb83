"""Encodes records of one shard ahead of writing them, where their bytes come over a network.

Reading an image from a store is waiting for an answer, so several are asked for at once. The order stays that of the
records, and no more than `AHEAD` encoded ones are held.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from beam_jobs.job import Job, Record
from beam_jobs.quality import looks

THREADS = 8
AHEAD = 16


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A serialised example; `looks` are the rows that `beam_jobs.quality.looks` collected on the way."""

    data: bytes
    looks: list[bytes]


def encoded(
    job: Job, records: Iterable[Record], *, looks_wanted: bool
) -> Iterator[tuple[Record, Callable[[], Encoded]]]:
    """Each record with a call that gives what `job.encode` makes of it, or raises what that raises."""
    encode = functools.partial(_encode, job, looks_wanted=looks_wanted)
    # Paths are plain strings in the job.
    if "://" not in repr(job):
        for record in records:
            yield record, functools.partial(encode, record)
        return
    waiting = iter(records)
    with ThreadPoolExecutor(THREADS) as pool:

        def begin(record: Record) -> tuple[Record, Callable[[], Encoded]]:
            return record, pool.submit(encode, record).result

        begun = deque(begin(record) for record in itertools.islice(waiting, AHEAD))
        try:
            while begun:
                yield begun.popleft()
                begun.extend(begin(record) for record in itertools.islice(waiting, 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _encode(job: Job, record: Record, *, looks_wanted: bool) -> Encoded:
    if not looks_wanted:
        return Encoded(job.encode(record), [])
    with looks.noting() as rows:
        return Encoded(job.encode(record), rows)
