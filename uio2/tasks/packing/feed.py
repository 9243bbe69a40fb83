"""The training feed of packed batches: the batch at step s is a function of (mixture, packing, seed, s).

A thread reads the lengths of the next windows and packs them while batches of this one are made. Every host packs the
whole window, which costs little, and makes only its own groups of each batch.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from uio2.tasks.feed import CHUNK, Batch, Feed, data_options
from uio2.tasks.mixture import Mixture, MixtureError
from uio2.tasks.packing.measure import count_media, measure
from uio2.tasks.packing.sizes import Sizes
from uio2.tasks.packing.spec import PackingSpec
from uio2.tasks.packing.window import PackedBatch, Windows, pack_window, plan_windows
from uio2.tasks.shapes import TASK

SAMPLE = 4096
# A task's reader may stand this many positions behind the others: every 1000 positions hold each task.
BEHIND = 8000
# Examples that may be read before the first batch of them is taken: some windows, or one that is measured.
AHEAD = 200_000


class PackedFeed:
    """Endless packed training batches of a mixture; see `uio2.tasks` for what they hold.

    Attributes:
      stats: what was fed so far.
      tasks: as of `Feed`.
      windows: how positions become batches.
    """

    def __init__(self, mixture: Mixture, *, packing: PackingSpec, rows: int, latents: Mapping[str, int], seed: int,
                 split: str = "train", parallel: int = 2) -> None:  # fmt: skip
        """Args:
          mixture, seed, split, parallel: as of `Feed`.
          packing: how.
          rows: rows of the global batch, a multiple of `packing.groups`.
          latents: tokens of a frame of `image_history` and of `audio_history`.

        Raises:
          MixtureError: a task has no example in the split.
          PackingError: rows that do not split into the groups.
        """
        self._mixture, self._packing, self._latents, self._seed = mixture, packing, latents, seed
        self._feed = Feed(mixture, seed=seed, split=split, parallel=parallel)
        self._parallel = parallel
        self.stats, self.tasks = self._feed.stats, self._feed.tasks
        self._span, self._measuring = range(SAMPLE), threading.Lock()
        self._measured = self._measure()
        self.windows: Windows = plan_windows(self._sizes(range(SAMPLE)), spec=packing, rows=rows)

    def batches(self, *, start_step: int = 0, num_hosts: int = 1, host: int = 0) -> Iterator[Batch]:
        """This host's groups of the batches of steps `start_step`, `start_step + 1`, ...

        Args:
          start_step: first step.
          num_hosts, host: host h gets groups [h, h + 1) * groups / num_hosts.
        """
        groups = self._packing.groups
        if groups % num_hosts or not 0 <= host < num_hosts:
            raise MixtureError(
                f"PackingSpec.groups {groups}, num_hosts {num_hosts}, host {host}: expected groups that are a "
                f"multiple of num_hosts and a host below it"
            )
        mine = slice(host * groups // num_hosts, (host + 1) * groups // num_hosts)
        with Plans(self._window, first=start_step // self.windows.steps, keep=self._keep) as plans:

            def batches() -> Iterator[tuple[np.ndarray, PackedBatch]]:
                for window in itertools.count(start_step // self.windows.steps):
                    skip = max(start_step - window * self.windows.steps, 0)
                    for batch in plans.get(window)[skip:]:
                        yield window * self.windows.positions + _members(batch, mine), batch

            stream = self._dataset(lambda: (positions for positions, _ in batches()))
            for values, (positions, batch) in zip(stream.as_numpy_iterator(), batches(), strict=False):
                examples = self._feed.counted(values) | {TASK: self._feed.numbers(positions)}
                yield packed(examples, batch, mine=mine)
        self._feed.ended()

    def describe(self, step: int) -> list[dict[str, int | str]]:
        """The examples of the batch of a step, as `Feed.describe`; reads the lengths of its window again."""
        window, number = divmod(step, self.windows.steps)
        members = _members(self._window(window)[number], slice(None))
        return self._feed.describe(window * self.windows.positions + members)

    @property
    def _keep(self) -> int:
        return 4 + BEHIND // self.windows.positions

    def _dataset(self, positions: Callable[[], Iterator[np.ndarray]]) -> tf.data.Dataset:
        """Batches of as many examples as each array of positions has."""
        sizes = tf.data.Dataset.from_generator(
            lambda: (np.full(len(some), len(some)) for some in positions()),
            output_signature=tf.TensorSpec([None], tf.int64),
        )
        stream = tf.data.Dataset.zip(sizes.unbatch(), self._feed.examples(positions, ahead=AHEAD))
        # Examples come batch by batch, so those of one size fill one batch before the next of that size begins.
        batches = stream.group_by_window(
            key_func=lambda size, _: size,
            reduce_func=lambda size, some: some.map(lambda _, example: example).ragged_batch(size),
            window_size_func=lambda size: size,
        )
        finished = batches.map(self._feed.stages23, num_parallel_calls=1, deterministic=True)
        return finished.prefetch(4).with_options(data_options(self._parallel))

    def _window(self, window: int) -> list[PackedBatch]:
        first, count = window * self.windows.positions, self.windows.positions
        sizes = self._sizes(range(first, first + count))
        return pack_window(sizes, spec=self._packing, windows=self.windows, seed=self._seed, window=window)

    def _sizes(self, span: range) -> Sizes:
        """What the examples at these positions take."""
        with self._measuring:  # windows are packed ahead in a thread of their own, while `describe` may ask for one
            self._span = span
            return Sizes.of(np.concatenate(list(self._measured.as_numpy_iterator())))

    def _measure(self) -> tf.data.Dataset:
        """int32 [n, columns] of the positions of `_span`, in pieces; one dataset for all, because tracing takes longer
        than reading the lengths of a window."""
        recipe, vocabulary = self._mixture.recipe, self._mixture.vocabulary

        def positions() -> Iterator[np.ndarray]:
            span = self._span
            return (np.arange(at, min(at + CHUNK, span.stop)) for at in range(span.start, span.stop, CHUNK))

        stream = self._feed.examples(
            positions, then=lambda example: count_media(example, recipe=recipe, latents=self._latents), ahead=AHEAD
        )
        measured = stream.ragged_batch(CHUNK).map(lambda batch: measure(batch, vocabulary=vocabulary, recipe=recipe))
        return measured.with_options(data_options(self._parallel))


class Plans:
    """Windows packed ahead of their use, one after another in a thread of their own; several readers may ask."""

    def __init__(self, make: Callable[[int], list[PackedBatch]], *, first: int, keep: int) -> None:
        self._make, self._next, self._keep = make, first, keep
        self._plans: dict[int, Future[list[PackedBatch]]] = {}
        self._thread, self._lock = ThreadPoolExecutor(1, "packing"), threading.Lock()

    def __enter__(self) -> Plans:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def get(self, window: int) -> list[PackedBatch]:
        """The batches of a window not long before the furthest one asked for."""
        with self._lock:
            while self._next <= window + 1:
                self._plans[self._next] = self._thread.submit(self._make, self._next)
                self._plans.pop(self._next - self._keep, None)
                self._next += 1
            plan = self._plans[window]
        return plan.result()


def _members(batch: PackedBatch, mine: slice) -> np.ndarray:
    return np.array([e for group in batch.groups[mine] for row in group for e in row], np.int64)


def packed(values: Batch, batch: PackedBatch, *, mine: slice = slice(None)) -> Batch:
    """Examples, group after group and row after row, at their places of the batch; with the keys of packing."""
    groups = batch.groups[mine]
    rows = np.full((len(groups), batch.places), -1, np.int32)
    examples = np.zeros((len(groups), batch.rows), np.int32)
    for number, group in enumerate(groups):
        counts = [len(row) for row in group]
        rows[number, : sum(counts)] = np.repeat(np.arange(len(group)), counts)
        examples[number, : len(group)] = counts
    there = np.flatnonzero(rows.reshape(-1) >= 0)
    out: Batch = {}
    for key, value in values.items():
        out[key] = np.zeros((rows.size, *value.shape[1:]), value.dtype)
        out[key][there] = value
    lengths = np.tile(np.array([batch.encoder, batch.decoder], np.int32), (len(groups), 1))
    return out | {"packing/row": rows, "packing/examples": examples, "packing/lengths": lengths}
