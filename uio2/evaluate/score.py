"""The score stage: prediction files and datasets in, every figure with interval and baseline out.

    metrics.json        {"version", "metrics": {key: {value, low, high, baseline, n}}, "tasks": {task: {...}}, ...}
    per_example.jsonl   one line per example: task, index, example_id, scores, baseline, answer (text or box)

Needs no model and no accelerator, and gives equal bytes for equal predictions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from uio2.evaluate import predictions as files
from uio2.evaluate.baselines import Baseline, learn_baselines
from uio2.evaluate.datasets import open_dataset
from uio2.evaluate.families import BOX_CLASSIFICATION, Family, family_of, key_prefixes
from uio2.evaluate.scoring import Answer, Scores, answers_of, baseline_answers, score_answers, unparsable
from uio2.evaluate.specs import ScoreSpec
from uio2.evaluate.summary import METRICS
from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageContext, StageError
from uio2.tasks.specs import FIRST_TASKS

VERSION = 1
PER_EXAMPLE = "per_example.jsonl"
DECIMALS = 6


def run(spec: ScoreSpec, context: StageContext) -> Mapping[str, Any]:
    """Scores the input `predictions`; baselines come from the inputs `coco` and `refcoco`."""
    folder = context.inputs["predictions"].path
    tasks = _reading_order([task for task, found in files.read_index(folder).items() if found["rows"]])
    if not tasks:
        raise StageError(f"{folder} holds no predictions to score; check `tasks` and `max_examples` of predict")
    steps = len(tasks) + 1
    baselines = learn_baselines(
        [family_of(task) for task in tasks],
        inputs=context.inputs,
        split=spec.baseline_split,
        limit=spec.max_baseline_examples,
        progress=lambda text: context.progress(0, steps, text),
    )
    prefixes = key_prefixes(tasks)
    result: dict[str, Any] = {"version": VERSION, "metrics": {}, "tasks": {}}
    with open(context.out / PER_EXAMPLE, "w", encoding="utf-8") as lines:
        for done, task in enumerate(tasks, 1):
            found = files.read_task(folder, task=task)
            family = family_of(task)
            answers = answers_of(family, header=found.header, rows=found.rows)
            own = score_answers(family, rows=found.rows, answers=answers)
            plain = baseline_answers(family, baseline=baselines[family.name], rows=found.rows)
            base = score_answers(family, rows=found.rows, answers=plain)
            for metric in family.metrics:
                result["metrics"][f"{prefixes[task]}/{metric}"] = _figure(
                    metric, own, base, name=f"{task}/{metric}", n=len(found.rows), spec=spec
                )
            invalid = unparsable(family, answers=answers, classes=_classes(family, context))
            result["tasks"][task] = _about(family, prefixes[task], found, baselines[family.name], invalid)
            lines.writelines(_lines(found.rows, answers, own, base))
            context.progress(done, steps, f"scored {task}: {len(found.rows)} examples")
            header = found.header
    result |= {"checkpoint": header.checkpoint, "confidence": spec.confidence, "resamples": spec.resamples}
    write_text(context.out / METRICS, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    context.metric(0, {key: figure["value"] for key, figure in result["metrics"].items()})
    context.progress(steps, steps, "scored")
    return {
        "metrics": result["metrics"],
        "examples": {task: about["n"] for task, about in result["tasks"].items()},
        "unparsable": {task: about["unparsable"] for task, about in result["tasks"].items()},
    }


def _reading_order(tasks: list[str]) -> list[str]:
    """Questions first, captions last, as the metric table reads best; unknown order by name."""
    rank = {task: i for i, task in enumerate((*FIRST_TASKS[1:], FIRST_TASKS[0]))}
    return sorted(tasks, key=lambda task: (rank.get(task, len(rank)), task))


def _figure(metric: str, own: Scores, base: Scores, *, name: str, n: int, spec: ScoreSpec) -> dict[str, float | int]:
    interval = own.interval(metric, name=name, seed=spec.seed, resamples=spec.resamples, confidence=spec.confidence)
    figures = {"value": interval.value, "low": interval.low, "high": interval.high, "baseline": base.value(metric)}
    return {key: round(value, DECIMALS) for key, value in figures.items()} | {"n": n}


def _about(
    family: Family, prefix: str, found: files.TaskPredictions, baseline: Baseline, invalid: int
) -> dict[str, Any]:
    return {
        "family": family.name,
        "prefix": prefix,
        "split": found.header.split,
        "n": len(found.rows),
        "unparsable": invalid,
        "baseline": family.baseline,
        "baseline_answer": list(baseline) if isinstance(baseline, tuple) else baseline,
        "decoding": dict(found.header.decoding),
    }


def _classes(family: Family, context: StageContext) -> list[str]:
    if family is not BOX_CLASSIFICATION:
        return []
    builder = open_dataset(context.inputs, name="coco", why="box classification's list of classes")
    return list(builder.info.features["objects"]["label"].names)


def _lines(rows: tuple[files.Prediction, ...], answers: list[Answer], own: Scores, base: Scores) -> Iterator[str]:
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        value = {
            "task": row.task,
            "index": row.index,
            "example_id": row.example_id,
            "answer": answer if answer is None or isinstance(answer, str) else [round(v, 3) for v in answer],
            "scores": {name: round(float(s[i]), DECIMALS) for name, s in own.per_example.items()},
            "baseline": {name: round(float(s[i]), DECIMALS) for name, s in base.per_example.items()},
        }
        yield json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
