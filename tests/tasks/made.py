"""What a task makes of the records of a small dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from uio2.tasks.eval_feed import EvalBatch, eval_examples
from uio2.tasks.families import find_task
from uio2.tasks.mixture import Mixture, make_mixture
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import NUM_DRAWS

SMALL = {"image_size": (96, 96), "image_target_size": (64, 64), "image_history_size": (32, 32), "num_frames": 3,
         "num_audio_segments": 1, "text_inputs": 64, "text_targets": 64}  # fmt: skip


def mixture_of(name: str, *, folder: Path, tokenizer: Path, **settings: Any) -> Mixture:
    """One task in the modalities it has."""
    task = find_task(name)
    recipe = RegisterSpec(**{
        "rates": {name: 1.0}, "input_modalities": ("text", *task.takes), "target_modalities": (task.makes,), **SMALL,
        **settings,
    })  # fmt: skip
    return make_mixture(recipe, datasets={task.dataset: folder}, tokenizer=tokenizer)


def evaluated(mixture: Mixture) -> EvalBatch:
    """All evaluation examples, at most 32, in one batch."""
    (name,) = mixture.tasks
    return next(eval_examples(mixture, task=name, batch_size=32, split="validation"))


def trained(mixture: Mixture, *, record: int, draws: Sequence[float] | Mapping[int, float]) -> dict[str, Any]:
    """Stage 1 of a record of `train` with these draws (others 0), as numpy."""
    (name,) = mixture.tasks
    values = np.zeros(NUM_DRAWS, np.float32)
    for place, value in draws.items() if isinstance(draws, Mapping) else enumerate(draws):
        values[place] = value
    (data,) = mixture.dataset(name).reader("train").read(np.array([record]))
    example = mixture.preprocessor(name, training=True)(
        mixture.parser(name)(tf.constant(data)), tf.constant(0), tf.constant(values)
    )
    return {key: value.numpy() for key, value in example.items()}


def usable(mixture: Mixture) -> list[int]:
    """Evaluation examples in each record of `train`, in the order they were given (they are dealt to two files)."""
    (name,) = mixture.tasks
    counts = mixture.counts(name, "train")
    order = [*range(0, len(counts), 2), *range(1, len(counts), 2)]
    return [int(counts[order.index(number)]) for number in range(len(counts))]
