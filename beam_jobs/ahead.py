"""Encodes records of one shard ahead of writing them, where their bytes come over a network.

Reading an image from a store is waiting for an answer, so several are asked for at once. The order stays that of the
records, and no more than `AHEAD` encoded ones are held.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from beam_jobs.job import Job, Record

THREADS = 8
AHEAD = 16


def encoded(job: Job, records: Iterable[Record]) -> Iterator[tuple[Record, Callable[[], bytes]]]:
    """Each record with a call that gives what `job.encode` makes of it, or raises what that raises."""
    # Paths are plain strings in the job.
    if "://" not in repr(job):
        for record in records:
            yield record, functools.partial(job.encode, record)
        return
    waiting = iter(records)
    with ThreadPoolExecutor(THREADS) as pool:

        def begin(record: Record) -> tuple[Record, Callable[[], bytes]]:
            return record, pool.submit(job.encode, record).result

        begun = deque(begin(record) for record in itertools.islice(waiting, AHEAD))
        try:
            while begun:
                yield begun.popleft()
                begun.extend(begin(record) for record in itertools.islice(waiting, 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
