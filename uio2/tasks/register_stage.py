"""The register stage: checks that a mixture works on its data, and publishes what later stages need.

Output: `mixture.json` (recipe, tokenizer, per task and split how many records and examples, token lengths of a sample
and what was wrong in it, one rendered example as text) and `counts/<task>-<split>.npy` (examples per record, so that
no later stage scans the data again). No path of a dataset is written: identity excludes place.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from uio2.pipeline.artifact import canonical_json
from uio2.pipeline.stage import StageContext, StageError, spec_to_json
from uio2.tasks.eval_feed import eval_examples
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import MIXTURE_FILE, Mixture, counts_file, make_mixture
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.tokenizer_stage import dataset_directories

SPLITS = ("train", "validation")
# More unusable examples than this share of a sample are a fault of the data or the recipe, not of a few files.
_MOST_DROPPED = 0.5


def run(spec: RegisterSpec, context: StageContext) -> Mapping[str, Any]:
    """Runs examples of every task through all stages and writes the mixture.

    Raises:
      StageError: a task has no example, or no tokenizer is given.
    """
    if "tokenizer" not in context.inputs:
        raise StageError(f"register has inputs {sorted(context.inputs)}; expected one named 'tokenizer'")
    directories = dataset_directories(context.inputs)
    mixture = make_mixture(spec, datasets=directories, tokenizer=context.inputs["tokenizer"].path)
    left_out = [name for name in spec.rates if name not in mixture.tasks]
    if left_out:
        print(f"left out, their datasets are not given: {', '.join(left_out)}")
    spec = mixture.recipe
    only_evaluated = _untrainable(mixture) if spec.untrainable == "evaluate" else []
    if only_evaluated:
        print(f"only evaluated, their train split holds no example: {', '.join(only_evaluated)}")
        spec = dataclasses.replace(spec, rates={**spec.rates, **dict.fromkeys(only_evaluated, 0.0)})
        mixture = dataclasses.replace(mixture, recipe=spec)
    tasks: dict[str, Any] = {}
    for number, name in enumerate(mixture.tasks):
        context.progress(number, len(mixture.tasks), f"checking {name}")
        tasks[name] = _check(mixture, name, context)
    trained = _check_training(mixture, spec)
    vocabulary = mixture.vocabulary
    values = {
        "recipe": spec_to_json(spec),
        "tokenizer": {
            "sha256": vocabulary.sha256,
            "base_size": vocabulary.base_size,
            "padded_size": vocabulary.padded_size,
        },
        "datasets": {k: context.inputs[k].digest for k in sorted(directories)},
        "tasks": tasks,
        "training_sample": trained,
    }
    canonical_json(values)  # refuses what JSON cannot hold before anything is written
    (context.out / MIXTURE_FILE).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    context.progress(len(tasks), len(tasks), "registered")
    return {
        "tasks": {name: task["splits"] for name, task in tasks.items()},
        "only_evaluated": only_evaluated,
        "left_out": left_out,
        "unusable": {name: task["unusable"] for name, task in tasks.items() if task["unusable"]},
        "training_sample": trained,
        "padded_size": vocabulary.padded_size,
    }


def _untrainable(mixture: Mixture) -> list[str]:
    """Tasks with a rate that have evaluation examples and no training ones."""
    return [
        name
        for name, rate in mixture.recipe.rates.items()
        if rate > 0 and not mixture.counts(name, "train").sum() and mixture.counts(name, "validation").sum()
    ]


def _check(mixture: Mixture, name: str, context: StageContext) -> dict[str, Any]:
    """Counts, lengths and one rendered example of a task."""
    splits: dict[str, Any] = {}
    for split in SPLITS:
        counts = mixture.counts(name, split)
        path = counts_file(context.out, name, split)
        path.parent.mkdir(exist_ok=True)
        np.save(path, counts)
        splits[split] = {"records": int((counts > 0).sum()), "examples": int(counts.sum())}
    needed = "train" if mixture.recipe.rates[name] > 0 else "validation"
    if not splits[needed]["examples"]:
        raise StageError(
            f"task {name!r} has no example in split {needed!r} of input {mixture.task(name).dataset!r}: no record "
            f"holds usable {', '.join(mixture.task(name).fields)}; set its rate in RegisterSpec.rates to 0 "
            f"(only evaluated), remove it, or build a dataset that has some"
        )
    shown = "validation" if splits["validation"]["examples"] else "train"
    size = mixture.recipe.check_examples
    batches = list(eval_examples(mixture, task=name, split=shown, batch_size=size, limit=size))
    rows = [row for batch in batches for row in batch.metadata]
    reasons = [reason for batch in batches for reason in batch.reasons if reason]
    for reason in reasons:
        print(f"{shown}: {reason}")
    unusable = collections.Counter(reason.split(":")[0] for reason in reasons)
    first = {k: rows[0][k] for k in ("prompt", "target", "all_targets", "image_info", "box")}
    return {"splits": splits, "seqio": name, "prompts": mixture.task(name).prompts, "score": mixture.task(name).score,
            "lengths": _lengths(rows, mixture.recipe), "unusable": dict(unusable), "example": first}  # fmt: skip


def _lengths(rows: list[dict[str, Any]], recipe: RegisterSpec) -> dict[str, Any]:
    """Longest text in tokens and how many of the sample are cut, in and out."""
    out: dict[str, Any] = {"examples": len(rows)}
    for side, limit in (("inputs", recipe.text_inputs), ("targets", recipe.text_targets)):
        lengths = [row[f"length_{side}"] for row in rows]
        out[side] = {"max": max(lengths), "limit": limit, "cut": sum(n > limit for n in lengths)}
    return out


def _check_training(mixture: Mixture, spec: RegisterSpec) -> dict[str, Any]:
    """A training batch, through the very feed the trainer uses: how many examples, and of those dropped by reason."""
    if not any(rate > 0 for rate in spec.rates.values()):
        return {"examples": 0, "dropped": {}}
    feed = Feed(mixture, seed=0)
    next(itertools.islice(feed.batches(batch_size=spec.check_examples), 1))
    if text := feed.stats.text():
        print(text)
    if feed.stats.dropped.total() > _MOST_DROPPED * spec.check_examples:
        raise StageError(
            f"{text}. What teaches nothing: texts of nothing but EOS, silent sounds, targets of a modality that is not "
            f"in RegisterSpec.target_modalities {spec.target_modalities}"
        )
    return {"examples": feed.stats.examples, "dropped": dict(feed.stats.dropped)}
