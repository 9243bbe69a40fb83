"""The training feed: the batch at step s is a function of (mixture, seed, s), on any number of hosts.

Order is decided on numbers (`uio2.tasks.order`) before anything is read, so starting at step 100,000 costs
what starting at step 0 does. A host reads only its own rows. tf.data does the work: per task parse and
stage 1, then one merged stream in batches through stages 2 and 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from uio2.tasks.align import align
from uio2.tasks.converter import convert
from uio2.tasks.mixture import Mixture, MixtureError
from uio2.tasks.order import Schedule, locate, name_key, uniforms
from uio2.tasks.task import NUM_DRAWS
from uio2.tasks.unified import unify

# Positions handed to tf.data at a time: a Python generator costs 0.1 ms per item, so items are chunks.
CHUNK = 256

Batch = dict[str, np.ndarray]


@dataclasses.dataclass
class FeedStats:
    """Counted while batches are taken: examples, and texts longer than the recipe allows."""

    examples: int = 0
    cut_inputs: int = 0
    cut_targets: int = 0


class Feed:
    """Endless training batches of a mixture.

    Close the iterator of `batches` (or let it go out of scope) before the interpreter ends, or tf.data warns.

    Attributes:
      stats: what was fed so far.
    """

    def __init__(self, mixture: Mixture, *, seed: int, split: str = "train", parallel: int = 2) -> None:
        """Args:
          mixture: what to draw from.
          seed: decides order and every random choice.
          split: a split all datasets of the mixture have.
          parallel: threads that decode.

        Raises:
          MixtureError: a task has no example in the split.
        """
        self._mixture, self._seed, self._parallel = mixture, seed, parallel
        self._schedule = Schedule(mixture.recipe.rates, seed=seed)
        self._eligible = {name: np.flatnonzero(mixture.counts(name, split)) for name in self._schedule.tasks}
        for name, rows in self._eligible.items():
            if not len(rows):
                raise MixtureError(
                    f"task {name!r} has no example in split {split!r} of {mixture.dataset(name).directory}; "
                    f"remove it from the rates or build a dataset that has some"
                )
        readers = {key: data.reader(split) for key, data in mixture.datasets.items() if split in data.splits}
        self._readers = {name: readers[mixture.task(name).dataset] for name in self._schedule.tasks}
        self.stats = FeedStats()

    def batches(self, *, batch_size: int, start_step: int = 0, num_hosts: int = 1, host: int = 0) -> Iterator[Batch]:
        """This host's rows of the batches of steps `start_step`, `start_step + 1`, ...

        Args:
          batch_size: rows of the global batch; a multiple of `num_hosts`.
          start_step: first step.
          num_hosts, host: host h gets rows [h, h + 1) * batch_size / num_hosts.
        """
        if batch_size % num_hosts or not 0 <= host < num_hosts:
            raise MixtureError(
                f"batch_size {batch_size}, num_hosts {num_hosts}, host {host}: expected a batch size that is a "
                f"multiple of num_hosts and a host below it"
            )
        rows = batch_size // num_hosts
        first, step = start_step * batch_size + host * rows, batch_size
        for batch in self._dataset((first, step, rows)).as_numpy_iterator():
            self.stats.examples += rows
            self.stats.cut_inputs += int((batch.pop("meta/length_inputs") > self._mixture.recipe.text_inputs).sum())
            self.stats.cut_targets += int((batch.pop("meta/length_targets") > self._mixture.recipe.text_targets).sum())
            yield batch

    def _chunks(self, first: int, step: int, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(task numbers, ordinals) of this host's positions, in order, some whole batches at a time."""
        steps = max(1, CHUNK // rows)
        while True:
            positions = first + step * np.arange(steps)[:, None] + np.arange(rows)[None]
            yield self._schedule.at(positions.reshape(-1))
            first += step * steps

    def _records(self, number: int, chunks: Iterator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(serialized records, draws) of one task."""
        name = self._schedule.tasks[number]
        eligible, reader = self._eligible[name], self._readers[name]
        for tasks, ordinals in chunks:
            mine = ordinals[tasks == number]
            epochs, rows = locate(mine, size=len(eligible), seed=self._seed, task=name)
            draws = uniforms(self._seed, name_key(name), epochs, rows, count=NUM_DRAWS)
            yield reader.read(eligible[rows]), draws

    def _task_dataset(self, number: int, where: tuple[int, int, int]) -> tf.data.Dataset:
        name = self._schedule.tasks[number]
        parse, prepare = self._mixture.parser(name), self._mixture.preprocessor(name, training=True)
        signature = (tf.TensorSpec([None], tf.string), tf.TensorSpec([None, NUM_DRAWS], tf.float32))
        source = tf.data.Dataset.from_generator(
            lambda: self._records(number, self._chunks(*where)), output_signature=signature
        )

        def stage1(serialized: tf.Tensor, draws: tf.Tensor) -> dict[str, tf.Tensor]:
            example = prepare(parse(serialized), tf.constant(0), draws)
            return {k: v for k, v in example.items() if not k.startswith("meta/")}

        return source.unbatch().map(stage1, num_parallel_calls=self._parallel, deterministic=True)

    def _dataset(self, where: tuple[int, int, int]) -> tf.data.Dataset:
        parts = align([self._task_dataset(n, where) for n in range(len(self._schedule.tasks))])
        merged = parts[0]
        if len(parts) > 1:
            numbers = tf.data.Dataset.from_generator(
                lambda: (tasks for tasks, _ in self._chunks(*where)), output_signature=tf.TensorSpec([None], tf.int64)
            )
            merged = tf.data.Dataset.choose_from_datasets(parts, numbers.unbatch(), stop_on_empty_dataset=True)
        recipe, vocabulary = self._mixture.recipe, self._mixture.vocabulary

        def stages23(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return convert(unify(batch, vocabulary=vocabulary, recipe=recipe), recipe=recipe)

        batches = merged.ragged_batch(where[2], drop_remainder=True)
        merged = batches.map(stages23, num_parallel_calls=1, deterministic=True)
        return merged.prefetch(4).with_options(data_options(self._parallel))


def data_options(parallel: int) -> tf.data.Options:
    """Deterministic, on a thread pool of its own so that the trainer's threads are left alone."""
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = parallel
    options.threading.max_intra_op_parallelism = 1
    return options
