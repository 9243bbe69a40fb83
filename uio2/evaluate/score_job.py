"""Scoring as a Beam job: a worker scores a shard at a time, so that no machine holds a whole set of predictions.

    (task, shards) -> Score -> GroupByKey(task) -> Join
                        |lines of each shard    |figures of the task: files in the stage's scratch

What crosses between workers are numbers: scores, sums, slices and ids of the rows. Tasks whose examples depend on each
other (captions with CIDEr, rankings) are one piece of work each. Where it runs is `beam_jobs.runner`'s to say, as for
building; workers must see the store, as the files are read and written by path.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import apache_beam as beam

from beam_jobs.runner import marked, pipeline_options, stage_error_in
from uio2.evaluate import predictions as files
from uio2.evaluate.families import family_of
from uio2.evaluate.predictions import PredictionsError
from uio2.evaluate.score_parts import ONCE, Part, Rows, TaskContext, TaskScores, join, score_rows, score_task
from uio2.evaluate.specs import ScoreSpec
from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageContext, StageError


@dataclasses.dataclass(frozen=True)
class Work:
    """One piece of work: shards of a task, all of them or one."""

    task: str
    shards: tuple[int, ...]
    num_shards: int
    rows: int

    @property
    def whole(self) -> bool:
        """Whether it is all of the task."""
        return len(self.shards) == self.num_shards


@dataclasses.dataclass(frozen=True)
class Done:
    """What came of it: the part, or None where its rows cannot be scored without the others."""

    shard: int
    part: Part | None


class Score(beam.DoFn):
    """Scores a piece of work and writes its lines."""

    def __init__(self, folder: str, scratch: str, *, spec: ScoreSpec, about: Mapping[str, TaskContext]):
        self._folder, self._scratch, self._spec, self._about = Path(folder), Path(scratch), spec, about

    def process(self, work: Work) -> Iterator[tuple[tuple[str, int, int], Done]]:
        try:
            key = work.task, work.num_shards, work.rows
            yield key, Done(work.shards[0], self._scored(work))
        except (StageError, PredictionsError) as error:
            raise marked(StageError(str(error))) from error

    def _scored(self, work: Work) -> Part | None:
        about = self._about[work.task]
        if work.whole:
            rows = score_task(files.read_task(self._folder, task=work.task), about=about, spec=self._spec)
        else:
            (shard,) = work.shards
            found = files.read_part(self._folder, task=work.task, shard=shard, num_shards=work.num_shards)
            try:
                rows = score_rows(found, about=about, spec=self._spec, resampling=ONCE)
            except ValueError:  # a set without anything to measure in it, which the task as a whole need not be
                return None
        _write_lines(rows, self._scratch, work)
        return rows.part


class Join(beam.DoFn):
    """Joins the parts of a task and writes its figures."""

    def __init__(self, folder: str, scratch: str, *, spec: ScoreSpec, about: Mapping[str, TaskContext]):
        self._folder, self._scratch, self._spec, self._about = Path(folder), Path(scratch), spec, about

    def process(self, element: tuple[tuple[str, int, int], Iterable[Done]]) -> Iterator[str]:
        (task, num_shards, expected), found = element
        done = sorted(found, key=lambda item: item.shard)
        try:
            part = self._joined(done, Work(task, tuple(range(num_shards)), num_shards, expected))
            value = dataclasses.asdict(TaskScores.of(part, spec=self._spec))
        except (StageError, PredictionsError) as error:
            raise marked(StageError(str(error))) from error
        write_text(_figures_file(self._scratch, task), json.dumps(value, ensure_ascii=False, allow_nan=False))
        yield task

    def _joined(self, done: Sequence[Done], whole: Work) -> Part:
        parts = [item.part for item in done if item.part is not None]
        if len(parts) < len(done):
            found = files.read_task(self._folder, task=whole.task)
            rows = score_task(found, about=self._about[whole.task], spec=self._spec)
            shutil.rmtree(_lines_folder(self._scratch, whole.task), ignore_errors=True)
            _write_lines(rows, self._scratch, whole)
            return rows.part
        if len(parts) == 1:  # the whole task was one piece
            return parts[0]
        places = [place for part in parts for place in part.places]
        files.check_parts([part.header for part in parts], places=places, expected=whole.rows, folder=self._folder)
        return join(parts, spec=self._spec)


def score_with_beam(
    tasks: list[str], about: Mapping[str, TaskContext], spec: ScoreSpec, context: StageContext, lines: TextIO
) -> Iterator[TaskScores]:
    """Each task in turn, as scoring in one process gives it; its lines are written.

    Raises:
      StageError: what a worker found wrong.
    """
    folder, scratch = context.inputs["predictions"].path, context.work / "score"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    index = files.read_index(folder)
    work = [piece for task in tasks for piece in _pieces(task, index[task])]
    context.progress(0, len(tasks) + 1, f"scoring {len(work)} pieces with Beam")
    to_score = Score(str(folder), str(scratch), spec=spec, about=about)
    to_join = Join(str(folder), str(scratch), spec=spec, about=about)
    try:
        with beam.Pipeline(options=pipeline_options()) as pipeline:
            pieces = pipeline | beam.Create(work) | beam.Reshuffle()
            _ = pieces | beam.ParDo(to_score) | beam.GroupByKey() | beam.ParDo(to_join)
    except Exception as error:  # Beam wraps what a worker raises in exceptions of its own
        raise stage_error_in(error) or error from error
    for task in tasks:
        for path in sorted(_lines_folder(scratch, task).glob("*.jsonl")):
            with open(path, encoding="utf-8") as part:
                shutil.copyfileobj(part, lines)
        yield TaskScores(**json.loads(_figures_file(scratch, task).read_text(encoding="utf-8")))


def _pieces(task: str, found: Mapping[str, int]) -> list[Work]:
    shards = range(found["shards"])
    if not family_of(task).alone:
        return [Work(task, tuple(shards), len(shards), found["rows"])]
    return [Work(task, (shard,), len(shards), found["rows"]) for shard in shards]


def _write_lines(rows: Rows, scratch: Path, work: Work) -> None:
    folder = _lines_folder(scratch, work.task)
    folder.mkdir(parents=True, exist_ok=True)
    # A bundle may be tried again, or by two workers at once: equal bytes through a rename.
    write_text(folder / f"{work.shards[0]:05d}.jsonl", "".join(rows.lines()))


def _lines_folder(scratch: Path, task: str) -> Path:
    return scratch / "lines" / task


def _figures_file(scratch: Path, task: str) -> Path:
    return scratch / f"{task}.json"
