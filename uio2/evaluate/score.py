"""The score stage: prediction files and datasets in, every figure with interval and baseline out.

    metrics.json        {"version", "metrics": {key: {value, low, high, baseline, n}}, "tasks": {task: {...}}, "slices"}
    per_example.jsonl   one line per example: task, index, example_id, scores, baseline, answer

A baseline is null where a way of scoring has none or the training split is missing; a figure of which less is better
says `"less_is_better": true`. Needs no model and no accelerator, and gives equal bytes for equal predictions, in this
process or as a Beam job (`UIO2_SCORE`, `score_job`): where it runs is no part of the recipe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from uio2.evaluate import predictions as files
from uio2.evaluate.baselines import learn_baselines
from uio2.evaluate.datasets import stored_dataset
from uio2.evaluate.families import BOX_CLASSIFICATION, family_of, key_prefixes
from uio2.evaluate.score_parts import TaskContext, TaskScores, score_task
from uio2.evaluate.scoring_pictures import RealPictures
from uio2.evaluate.specs import ScoreSpec
from uio2.evaluate.summary import METRICS, PER_EXAMPLE
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageContext, StageError
from uio2.tasks.families import find_task
from uio2.tasks.specs import FIRST_TASKS

VERSION = 1
VARIABLE, HERE, BEAM = "UIO2_SCORE", "here", "beam"
# From here on rows, answers and truths of a task are not held in memory at once.
BEAM_ROWS = 200_000


def run(spec: ScoreSpec, context: StageContext) -> Mapping[str, Any]:
    """Scores the input `predictions`; baselines come from the datasets of its tasks, inputs by their names.

    Raises:
      StageError: nothing to score, or an example that cannot be.
    """
    folder = context.inputs["predictions"].path
    index = files.read_index(folder)
    tasks = _reading_order([task for task, found in index.items() if found["rows"]])
    if not any(family_of(task).metrics for task in tasks):
        why = f"{', '.join(tasks)} have no figure yet" if tasks else "check `tasks` and `max_examples` of predict"
        raise StageError(f"{folder} holds no predictions to score; {why}")
    steps = len(tasks) + 1
    about = _contexts(tasks, spec, context, progress=lambda text: context.progress(0, steps, text))
    prefixes = key_prefixes(tasks)
    result: dict[str, Any] = {"version": VERSION, "metrics": {}, "tasks": {}, "slices": {}}
    with open(context.out / PER_EXAMPLE, "w", encoding="utf-8") as lines:
        scored = _scoring(sum(index[task]["rows"] for task in tasks))(tasks, about, spec, context, lines)
        for done, found in enumerate(scored, 1):
            task = found.task
            result["metrics"] |= {f"{prefixes[task]}/{metric}": value for metric, value in found.figures.items()}
            result["tasks"][task] = _about(found, prefixes[task], about[task])
            if found.slices:
                result["slices"][task] = found.slices
            context.progress(done, steps, f"scored {task}: {found.n} examples")
            checkpoint = found.checkpoint
    result |= {"checkpoint": checkpoint, "confidence": spec.confidence, "resamples": spec.resamples}
    write_text(context.out / METRICS, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    context.metric(0, {key: figure["value"] for key, figure in result["metrics"].items()})
    context.progress(steps, steps, "scored")
    return {
        "metrics": result["metrics"],
        "examples": {task: said["n"] for task, said in result["tasks"].items()},
        "unparsable": {task: said["unparsable"] for task, said in result["tasks"].items()},
    }


Scoring = Callable[[list[str], Mapping[str, TaskContext], ScoreSpec, StageContext, TextIO], Iterator[TaskScores]]


def _scoring(rows: int) -> Scoring:
    """In this process, or as a Beam job: as the environment says, else by size."""
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", HERE, BEAM):
        raise StageError(f"{VARIABLE} is {asked!r}; expected {HERE} or {BEAM}, or nothing to decide by size")
    if asked == BEAM or (not asked and rows > BEAM_ROWS):
        from uio2.evaluate.score_job import score_with_beam

        return score_with_beam
    return _score_here


def _score_here(
    tasks: list[str], about: Mapping[str, TaskContext], spec: ScoreSpec, context: StageContext, lines: TextIO
) -> Iterator[TaskScores]:
    """Each task in turn; its lines are written."""
    for task in tasks:
        found = files.read_task(context.inputs["predictions"].path, task=task)
        scored = score_task(found, about=about[task], spec=spec)
        lines.writelines(scored.lines())
        yield TaskScores.of(scored.part, spec=spec)


def _contexts(
    tasks: list[str], spec: ScoreSpec, context: StageContext, *, progress: Callable[[str], None]
) -> dict[str, TaskContext]:
    baselines = learn_baselines(
        tasks, inputs=context.inputs, split=spec.baseline_split, limit=spec.max_baseline_examples, progress=progress
    )
    folder = context.inputs["predictions"].path
    return {
        task: TaskContext(baselines[task], _classes(task, context.inputs), _real(task, spec, context.inputs, folder))
        for task in tasks
    }


def _real(task: str, spec: ScoreSpec, inputs: Mapping[str, Artifact], folder: Path) -> RealPictures | None:
    if not family_of(task).needs_pictures:
        return None
    name = find_task(task).dataset
    dataset = stored_dataset(inputs, name=name, why=f"scoring the pictures of {task}")
    shards = files.read_index(folder)[task]["shards"]
    split = files.read_part(folder, task=task, shard=0, num_shards=shards).header.split
    return RealPictures(dataset.directory, split, spec.features, spec.text_features, spec.features_size)


def _classes(task: str, inputs: Mapping[str, Artifact]) -> tuple[str, ...]:
    if family_of(task) is not BOX_CLASSIFICATION:
        return ()
    name = find_task(task).dataset
    return tuple(stored_dataset(inputs, name=name, why="box classification's list of classes").classes())


def _reading_order(tasks: list[str]) -> list[str]:
    """Questions first, captions last, as the metric table reads best; unknown order by name."""
    rank = {task: i for i, task in enumerate((*FIRST_TASKS[1:], FIRST_TASKS[0]))}
    return sorted(tasks, key=lambda task: (rank.get(task, len(rank)), task))


def _about(found: TaskScores, prefix: str, about: TaskContext) -> dict[str, Any]:
    family, baseline = family_of(found.task), about.baseline
    return {
        "family": family.name,
        "prefix": prefix,
        "split": found.split,
        "n": found.n,
        "unparsable": found.unparsable,
        "baseline": family.baseline or None,
        "baseline_answer": list(baseline) if isinstance(baseline, tuple) else baseline,
        "decoding": found.decoding,
    }
