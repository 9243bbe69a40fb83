"""Examples to look at: as training draws them, or as evaluation asks them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from uio2.pipeline.stage import UsageError
from uio2.tasks.eval_feed import count_eval_examples, eval_examples
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import Mixture
from uio2.tasks.order import Schedule
from uio2.tasks.packing.feed import PackedFeed
from uio2.tasks.packing.spec import PackingSpec
from uio2.tasks.visualize.cards import Example
from uio2.tasks.visualize.layout import LATENTS, Packing

BATCH = 8


def training_examples(mixture: Mixture, *, count: int, seed: int = 0, start: int = 0) -> Iterator[Example]:
    """The first examples of training with this seed, every choice drawn; `start` skips so many.

    Raises:
      MixtureError: a task has no training example.
    """
    size = min(BATCH, count)
    schedule = Schedule(mixture.recipe.rates, seed=seed)
    batches = Feed(mixture, seed=seed).batches(batch_size=size, start_step=start // size)
    first = start // size * size
    rows = (
        (first + step * size + row, {key: value[row] for key, value in batch.items()})
        for step, batch in enumerate(batches)
        for row in range(size)
    )
    for position, batch in itertools.islice(rows, start - first, start - first + count):
        tasks, ordinals = schedule.at(np.array([position]))
        facts = {"position": position, "seed": seed, "number in its task": int(ordinals[0])}
        yield Example(schedule.tasks[int(tasks[0])], f"position {position}", batch, facts)


def packed_examples(mixture: Mixture, *, packing: PackingSpec, count: int,
                    seed: int = 0) -> tuple[list[Example], Packing]:  # fmt: skip
    """The examples of the first rows of the first packed batch: whole rows, `count` examples at most but one row.

    Raises:
      MixtureError: a task has no training example.
    """
    feed = PackedFeed(mixture, packing=packing, rows=count, latents=LATENTS, seed=seed)
    batch = next(feed.batches())
    encoder, decoder = batch["packing/lengths"][0].tolist()
    rows, ends = batch["packing/row"][0], np.cumsum(batch["packing/examples"][0])
    whole = np.flatnonzero((rows >= 0) & (rows < max((ends <= count).sum(), 1)))
    values = {key: value for key, value in batch.items() if not key.startswith("packing/")}
    found = [
        Example("", f"row {rows[n] + 1}", {key: value[n] for key, value in values.items()}, {"seed": seed})
        for n in whole
    ]
    return found, Packing([int(rows[n]) for n in whole], (encoder, decoder))


def evaluation_examples(mixture: Mixture, *, split: str, count: int, start: int = 0) -> Iterator[Example]:
    """The first evaluation examples of each task, `count` in all; `start` skips so many of each task.

    Raises:
      UsageError: no task has an example in the split.
    """
    names = [name for name in mixture.tasks if count_eval_examples(mixture, task=name, split=split) > start]
    if not names:
        there = sorted({s for data in mixture.datasets.values() for s in data.splits})
        raise UsageError(f"--split {split}: no example from number {start} on; the data has the splits {there}")
    shares = [count // len(names) + (n < count % len(names)) for n in range(len(names))]
    for name, share in zip(names, shares, strict=True):
        if share:
            yield from _evaluation(mixture, name, split=split, start=start, stop=start + share)


def _evaluation(mixture: Mixture, name: str, *, split: str, start: int, stop: int) -> Iterator[Example]:
    size = min(BATCH, stop - start)
    for found in eval_examples(mixture, task=name, split=split, batch_size=size, start=start, limit=stop):
        for row, facts in enumerate(found.metadata):
            batch = {key: value[row] for key, value in found.batch.items()}
            yield Example(name, str(facts["example_id"]), batch, facts)
