"""What a build would make, found without making it: sources read and joined, a sample of records encoded.

Everything but the large bytes is judged as in the build; of those, the first records of each split by hashed key (a
random sample) stand for the rest, and the estimate of bytes comes from them.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from beam_jobs import dataflow
from beam_jobs.build import check_spec, column, letters_of, lines, run_graph, version_of
from beam_jobs.dead_letters import check_threshold, dropped_by_reason
from beam_jobs.job import Job
from beam_jobs.specs import DatasetSpec
from uio2.pipeline.stage import StageError

SAMPLE = 32


@dataclasses.dataclass(frozen=True)
class Preview:
    """What came of a dry run.

    Attributes:
      dataset: `<name>/<version>`.
      records_in, over_limit: records by kind.
      dropped: kind -> reason -> records dropped before bytes are read.
      splits: records of each split that are left.
      shards: files of each split.
      sampled: records that were encoded.
      sample_dropped: reason -> records of the sample that would be dropped.
      estimated_bytes: of all shards, from the sample.
      problem: why the build would fail as far as can be seen; "" if it would not.
    """

    dataset: str
    records_in: dict[str, int]
    over_limit: dict[str, int]
    dropped: dict[str, dict[str, int]]
    splits: dict[str, int]
    shards: int
    sampled: int
    sample_dropped: dict[str, int]
    estimated_bytes: int
    problem: str


def preview(job: Job, spec: DatasetSpec) -> Preview:
    """Reads all sources of a job and says what a build would do; writes nothing that stays.

    Raises:
      StageError: a source is unreadable, or a setting cannot be meant.
    """
    check_spec(spec)
    with tempfile.TemporaryDirectory(prefix="uio2-dry-run-") as folder:
        work = Path(folder)
        run_graph(
            lambda graph, pipeline: graph.preview_graph(
                pipeline, job, limit=spec.limit, sample=SAMPLE, folder=folder, duplicates=spec.duplicates
            ),
            dataflow.options_here(),
        )
        letters = letters_of(work, ())
        tally = dict(lines(work / "tally.jsonl"))
        splits = dict(sorted(lines(work / "splits.jsonl")))
        sample = [tuple(row) for row in lines(work / "sample.jsonl")]
    return Preview(
        dataset=f"{job.name}/{version_of(spec)}",
        records_in=column(tally, "in"),
        over_limit=column(tally, "over_limit"),
        dropped=dropped_by_reason(letters),
        splits=splits,
        shards=spec.num_shards,
        sampled=len(sample),
        sample_dropped=dict(sorted(Counter(reason for _, _, reason in sample if reason).items())),
        estimated_bytes=_estimate(splits, sample),
        problem=_problem(letters, tally, splits, spec),
    )


def _estimate(splits: dict[str, int], sample: list[tuple[str, int, str]]) -> int:
    total = 0.0
    for split, records in splits.items():
        sizes = [size for name, size, _ in sample if name == split]
        total += records * sum(sizes) / max(1, len(sizes))
    return round(total)


def _problem(letters: list[dict[str, Any]], tally: dict[str, int], splits: dict[str, int], spec: DatasetSpec) -> str:
    if not splits:
        return f"no record is left; dropped: {json.dumps(dropped_by_reason(letters)) if letters else 'nothing'}"
    try:
        check_threshold(
            letters, seen=column(tally, "in"), limit=spec.max_dropped_fraction, kept_in="the build's dead_letters/"
        )
    except StageError as e:
        return str(e)
    return ""
