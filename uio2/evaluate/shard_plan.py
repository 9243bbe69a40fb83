"""Which prediction files there are, who makes them, and which are made already.

The files of all tasks stand in one list that is cut into as many runs as there are processes. Who makes a file changes
nothing about it: a file holds whole batches, so every example is decoded beside the same neighbours. So a run that was
killed goes on with any number of processes, and a file that two of them make is the same file.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from uio2.evaluate.predictions import (
    Header,
    PredictionsError,
    read_shard,
    shard_name,
    shard_stem,
)
from uio2.pipeline.launch.launcher import NUM_PROCESSES, PROCESS_ID
from uio2.pipeline.stage import StageError


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the processes that predict; the first one publishes."""

    count: int = 1
    number: int = 0

    @classmethod
    def from_environment(cls) -> Member:
        """What the launcher says.

        Raises:
          StageError: numbers that cannot be meant.
        """
        count, number = (os.environ.get(name) or default for name, default in ((NUM_PROCESSES, "1"), (PROCESS_ID, "0")))
        if not (count.isdigit() and number.isdigit() and int(number) < int(count)):
            raise StageError(f"{NUM_PROCESSES} is {count!r} and {PROCESS_ID} {number!r}; expected 1 or more, and less")
        return cls(int(count), int(number))

    @property
    def leads(self) -> bool:
        """Whether this is the process whose output counts."""
        return self.number == 0


@dataclasses.dataclass(frozen=True)
class TaskPlan:
    """The files of one task.

    Attributes:
      header: of all files, without what tells them apart.
      rows: examples.
      per_shard: of one file; a multiple of the batch size.
      work: scratch, shared by all processes.
    """

    header: Header
    rows: int
    per_shard: int
    work: Path

    @classmethod
    def of(cls, header: Header, *, rows: int, shard_size: int, batch_size: int, work: Path) -> TaskPlan:
        """The plan of files of at least `shard_size` examples, in whole batches."""
        per_shard = math.ceil(shard_size / batch_size) * batch_size
        return cls(dataclasses.replace(header, num_shards=math.ceil(rows / per_shard)), rows, per_shard, work)

    @property
    def task(self) -> str:
        """Its name."""
        return self.header.task

    @property
    def num_shards(self) -> int:
        """How many files."""
        return self.header.num_shards

    @property
    def folder(self) -> Path:
        """Where they are made."""
        return self.work / self.task

    def of_shard(self, shard: int) -> Header:
        """The header of a file."""
        first = shard * self.per_shard
        rows = min(self.per_shard, self.rows - first)
        return dataclasses.replace(self.header, shard=shard, first_index=first, rows=rows)

    def path(self, shard: int) -> Path:
        """Where a file is made."""
        return self.folder / shard_name(shard, self.num_shards)

    def is_done(self, shard: int) -> bool:
        """Whether a file and its media are there and whole."""
        if not self.path(shard).exists():
            return False
        try:
            header, rows = read_shard(self.path(shard))
        except PredictionsError:  # damaged scratch costs only the decoding
            return False
        return header == self.of_shard(shard) and all((self.folder / row.media).exists() for row in rows if row.media)

    def missing(self, shards: range) -> list[range]:
        """The files of a run that are not there yet, as runs of their own: each is one pass over the data."""
        runs: list[range] = []
        for shard in shards:
            if self.is_done(shard):
                continue
            if runs and runs[-1].stop == shard:
                runs[-1] = range(runs[-1].start, shard + 1)
            else:
                runs.append(range(shard, shard + 1))
        return runs

    def publish(self, out: Path) -> None:
        """Copies all files to the output."""
        (out / self.task).mkdir(parents=True, exist_ok=True)
        for shard in range(self.num_shards):
            media = shard_stem(shard, self.num_shards)
            shutil.copyfile(self.path(shard), out / self.task / shard_name(shard, self.num_shards))
            if (self.folder / media).is_dir():
                shutil.copytree(self.folder / media, out / self.task / media, ignore=shutil.ignore_patterns("*.tmp"))

    def truncated(self) -> int:
        """Texts that were cut: as many tokens as decoding allows, and no end marker among them."""
        longest = self.header.decoding.get("max_length")
        if longest is None:
            return 0
        return sum(len(row.tokens) >= longest for n in range(self.num_shards) for row in read_shard(self.path(n))[1])


def own_shards(plans: Sequence[TaskPlan], member: Member) -> list[tuple[TaskPlan, range]]:
    """The files that a process makes."""
    total = sum(plan.num_shards for plan in plans)
    begin, end = (total * n // member.count for n in (member.number, member.number + 1))
    found, before = [], 0
    for plan in plans:
        mine = range(max(begin - before, 0), min(end - before, plan.num_shards))
        if mine:
            found.append((plan, mine))
        before += plan.num_shards
    return found
