"""The training feed: the batch at step s is a function of (mixture, seed, s), on any number of hosts.

Order is decided on numbers (`uio2.tasks.order`) before anything is read, so starting at step 100,000 costs
what starting at step 0 does. A host reads only its own rows. tf.data does the work: per task parse and
stage 1, then one merged stream in batches through stages 2 and 3.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from uio2.tasks.align import align
from uio2.tasks.converter import convert
from uio2.tasks.guard import REASON, blank, explain, guarded
from uio2.tasks.mixture import Mixture, MixtureError
from uio2.tasks.order import Schedule, locate, name_key, uniforms
from uio2.tasks.shapes import TASK
from uio2.tasks.task import NUM_DRAWS
from uio2.tasks.unified import unify

# Positions handed to tf.data at a time: a Python generator costs 0.1 ms per item, so items are chunks.
CHUNK = 256
# Examples of a task that may be read ahead of the last batch taken, beyond which all of them must be failing.
FURTHEST = 4096

Batch = dict[str, np.ndarray]
Positions = Callable[[], Iterator[np.ndarray]]
Stage1 = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]


@dataclasses.dataclass
class FeedStats:
    """Counted while batches are taken.

    Attributes:
      examples: all that were fed.
      cut_inputs, cut_targets: texts longer than the recipe allows.
      dropped: examples without any position in the loss, by reason (`uio2.tasks.guard`).
      first: what was found in the first example of each reason.
    """

    examples: int = 0
    cut_inputs: int = 0
    cut_targets: int = 0
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, reasons: np.ndarray) -> None:
        """Counts the examples of `REASON` bytes [n] that have one."""
        for text in filter(None, reasons.tolist()):
            name, _, found = text.decode("utf-8", "replace").partition(": ")
            self.dropped[name] += 1
            self.first.setdefault(name, found)

    def text(self) -> str:
        """For people: what was dropped; empty if nothing was."""
        about = [f"{count} {name}" + f" (first: {self.first[name]})" * bool(self.first[name])
                 for name, count in sorted(self.dropped.items())]  # fmt: skip
        return f"{self.dropped.total()} of {self.examples} examples dropped: {', '.join(about)}" if about else ""


class Feed:
    """Endless training batches of a mixture.

    Close the iterator of `batches` (or let it go out of scope) before the interpreter ends, or tf.data warns.

    Attributes:
      stats: what was fed so far.
      tasks: their names, by the number that `TASK` of a batch holds.
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
        self.tasks: tuple[str, ...] = tuple(self._schedule.tasks)
        self.stats = FeedStats()
        self._failure: Exception | None = None

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
        first = start_step * batch_size + host * rows
        stream = self.examples(lambda: _strided(first, batch_size, rows), ahead=16 * rows)
        batches = stream.ragged_batch(rows, drop_remainder=True).map(
            self.stages23, num_parallel_calls=1, deterministic=True
        )
        for batch in batches.prefetch(4).with_options(data_options(self._parallel)).as_numpy_iterator():
            yield self.counted(batch) | {TASK: self.numbers(first + np.arange(rows))}
            first += batch_size
        self.ended()

    def numbers(self, positions: np.ndarray) -> np.ndarray:
        """int32 [n]: the tasks of the examples at positions."""
        return self._schedule.at(positions)[0].astype(np.int32)

    def describe(self, positions: np.ndarray) -> list[dict[str, int | str]]:
        """Which examples stand at positions, without reading any: task, record of the split, epoch of the task."""
        found = []
        for position, number, ordinal in zip(positions, *self._schedule.at(positions), strict=True):
            name = self._schedule.tasks[number]
            epochs, rows = locate(np.array([ordinal]), size=len(self._eligible[name]), seed=self._seed, task=name)
            record = int(self._eligible[name][rows[0]])
            found.append({"position": int(position), "task": name, "record": record, "epoch": int(epochs[0])})
        return found

    def ended(self) -> None:
        """Raises the `MixtureError` that ended an endless stream."""
        raise MixtureError(f"the records ended: {self._failure}") from self._failure

    def counted(self, batch: Batch) -> Batch:
        """The batch without `meta/`, which went into `stats`."""
        self.stats.examples += len(batch["inputs/text/tokens"])
        self.stats.add(batch[REASON])
        self.stats.cut_inputs += int((batch["meta/length_inputs"] > self._mixture.recipe.text_inputs).sum())
        self.stats.cut_targets += int((batch["meta/length_targets"] > self._mixture.recipe.text_targets).sum())
        return {key: value for key, value in batch.items() if not key.startswith("meta/")}

    def _records(self, number: int, positions: Positions, handed: Handed) -> Iterator[tuple[np.ndarray, ...]]:
        """(their numbers in the stream, serialized records, draws) of one task."""
        name = self._schedule.tasks[number]
        eligible, reader = self._eligible[name], self._readers[name]
        handed.restart()
        for tasks, ordinals in map(self._schedule.at, positions()):
            mine = ordinals[tasks == number]
            epochs, rows = locate(mine, size=len(eligible), seed=self._seed, task=name)
            draws = uniforms(self._seed, name_key(name), epochs, rows, count=NUM_DRAWS)
            try:
                yield handed.add(eligible[rows], draws, taken=self.stats.examples), reader.read(eligible[rows]), draws
            except Exception as error:  # swallowed by the stream, which ends: `ended` says it
                self._failure = error
                raise

    def _task_dataset(self, number: int, positions: Positions, then: Stage1, ahead: int) -> tf.data.Dataset:
        name = self._schedule.tasks[number]
        parse, prepare = self._mixture.parser(name), self._mixture.preprocessor(name, training=True)
        hint = f"; `uio2 tasks check {name}` says what is wrong with them"
        handed = Handed(most=FURTHEST + ahead, name=f"task {name!r}", hint=hint)
        signature = (tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string),
                     tf.TensorSpec([None, NUM_DRAWS], tf.float32))  # fmt: skip
        source = tf.data.Dataset.from_generator(
            lambda: self._records(number, positions, handed), output_signature=signature
        )

        def stage1(serialized: tf.Tensor, draws: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return then(prepare(parse(serialized), tf.constant(0), draws))

        def rescue(at: int, spec: Mapping[str, tf.TensorSpec]) -> Mapping[str, tf.Tensor]:
            row, draws = handed.find(at)
            try:
                made = stage1(tf.constant(self._readers[name].read(np.array([row]))[0]), tf.constant(draws))
            except Exception as error:
                return blank(spec, reason=explain(error, name=f"{name}, record {row}"))
            return {**made, REASON: tf.constant("")}

        return guarded(source.unbatch(), stage1, rescue=rescue, parallel=self._parallel)

    def examples(self, positions: Positions, *, then: Stage1 | None = None, ahead: int = 0) -> tf.data.Dataset:
        """Stage 1 examples of all tasks in the order of these positions, ready for `ragged_batch`.

        Args:
          positions: makes an iterator over arrays of positions; called once per task, and once more.
          then: what becomes of an example, in the same graph; None leaves `meta/` out.
          ahead: how many examples may be read before `counted` sees a batch of them.
        """
        then = _without_meta if then is None else then
        parts = align([self._task_dataset(n, positions, then, ahead) for n in range(len(self._schedule.tasks))])
        if len(parts) == 1:
            return parts[0]
        numbers = tf.data.Dataset.from_generator(
            lambda: (self._schedule.at(some)[0] for some in positions()),
            output_signature=tf.TensorSpec([None], tf.int64),
        )
        return tf.data.Dataset.choose_from_datasets(parts, numbers.unbatch(), stop_on_empty_dataset=True)

    def stages23(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Stages 2 and 3 of a batch of `examples`."""
        recipe = self._mixture.recipe
        return convert(unify(batch, vocabulary=self._mixture.vocabulary, recipe=recipe), recipe=recipe)


def _without_meta(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {key: value for key, value in example.items() if not key.startswith("meta/")}


def _strided(first: int, step: int, rows: int) -> Iterator[np.ndarray]:
    """Positions of one host's rows of every batch, some whole batches at a time."""
    steps = max(1, CHUNK // rows)
    while True:
        yield (first + step * np.arange(steps)[:, None] + np.arange(rows)[None]).reshape(-1)
        first += step * steps


class Handed:
    """What a stream was handed lately: for the examples that fail, and to see when all of them do."""

    def __init__(self, *, most: int, name: str, hint: str = "") -> None:
        """Args:
        most: records that may be handed over without one example coming back.
        name: of the stream, for the error.
        hint: what to do then.
        """
        self._most, self._name, self._hint = most, name, hint
        self._chunks: collections.deque[tuple[int, np.ndarray, np.ndarray]] = collections.deque()
        self._total, self._taken, self._since = 0, 0, 0

    def restart(self) -> None:
        """The stream begins anew, and with it the numbers."""
        self._chunks.clear()
        self._total, self._since = 0, 0

    def add(self, rows: np.ndarray, draws: np.ndarray, *, taken: int) -> np.ndarray:
        """int64 [n]: numbers of these records; `taken` is how many examples were fed so far.

        Raises:
          MixtureError: too many were handed over since the last batch was taken.
        """
        if taken != self._taken:
            self._taken, self._since = taken, 0
        first, self._since, self._total = self._total, self._since + len(rows), self._total + len(rows)
        if self._since > self._most:
            raise MixtureError(f"{self._name}: none of {self._since} records in a row gave an example{self._hint}")
        self._chunks.append((first, rows, draws))
        while self._total - self._chunks[0][0] > 2 * self._most:
            self._chunks.popleft()
        return first + np.arange(len(rows))

    def find(self, number: int) -> tuple[int, np.ndarray]:
        """Record and draws of a number."""
        first, rows, draws = next(chunk for chunk in reversed(self._chunks) if chunk[0] <= number)
        return int(rows[number - first]), draws[number - first]


def data_options(parallel: int) -> tf.data.Options:
    """Deterministic, on a thread pool of its own so that the trainer's threads are left alone."""
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = parallel
    options.threading.max_intra_op_parallelism = 1
    return options
