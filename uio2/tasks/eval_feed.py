"""The evaluation feed: every example of a task exactly once, with what scoring needs to know.

An example whose picture or sound cannot be read stays, without it: a prediction and a score for each example is what
later stages count on, and a metric must not rise because a hard file went missing. `EvalBatch.reasons` says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from uio2.tasks.converter import convert
from uio2.tasks.feed import CHUNK, Batch, data_options
from uio2.tasks.guard import REASON, explain, guarded, with_blank_media
from uio2.tasks.mixture import Mixture, MixtureError
from uio2.tasks.task import NUM_DRAWS
from uio2.tasks.unified import unify


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """One batch of fixed size.

    Attributes:
      batch: the model batch; rows that are not valid repeat row 0.
      valid: bool [B].
      metadata: one dict per valid row, JSON values but for the truth: task, example_id (unique in the task),
        image_id, prompt, question, target, all_targets (strings), image_info (11 numbers), box (y1, x1, y2, x2 in
        source pixels, or None for tasks without one), length_inputs, length_targets (tokens before any cut),
        truth/NAME (numbers and bytes).
      reasons: one string per valid row: why the example is not as it should be (`uio2.tasks.guard`), mostly "".
    """

    batch: Batch
    valid: np.ndarray
    metadata: list[dict[str, Any]]
    reasons: list[str]


def count_eval_examples(mixture: Mixture, *, task: str, split: str = "validation", limit: int | None = None) -> int:
    """How many examples `eval_examples` yields with the same arguments."""
    total = int(mixture.counts(task, split).sum())
    return total if limit is None else min(limit, total)


def eval_examples(mixture: Mixture, *, task: str, batch_size: int, split: str = "validation", limit: int | None = None,
                  start: int = 0, parallel: int = 2) -> Iterator[EvalBatch]:  # fmt: skip
    """Batches of a task's evaluation examples, in file order.

    Args:
      mixture: where the task and its data are.
      task: its name.
      batch_size: rows of every batch; the last one is filled up and masked.
      split: which split.
      limit: only the first so many examples.
      start: skip so many examples (a resumed prediction); nothing of them is decoded.
      parallel: threads that decode.
    """
    counts = mixture.counts(task, split)
    stop = count_eval_examples(mixture, task=task, split=split, limit=limit)
    ends = np.cumsum(counts)
    reader = mixture.dataset(task).reader(split)

    def of(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Records and items of these examples."""
        rows = np.searchsorted(ends, numbers, side="right")
        return reader.read(rows), (numbers - (ends[rows] - counts[rows])).astype(np.int32)

    def records() -> Iterator[tuple[np.ndarray, ...]]:
        for at in range(start, stop, CHUNK):
            numbers = np.arange(at, min(at + CHUNK, stop))
            yield numbers - start, *of(numbers)

    parse, prepare = mixture.parser(task), mixture.preprocessor(task, training=False)

    def stage1(serialized: tf.Tensor, item: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return prepare(parse(serialized), item, tf.zeros(NUM_DRAWS))

    def rescue(at: int, spec: Mapping[str, tf.TensorSpec]) -> Mapping[str, tf.Tensor]:
        serialized, item = (tf.constant(values[0]) for values in of(np.array([start + at])))
        try:
            return {**stage1(serialized, item), REASON: tf.constant("")}
        except Exception as error:
            reason = explain(error, name=f"{task}, example {start + at}")
            made = with_blank_media(parse(serialized), lambda record: prepare(record, item, tf.zeros(NUM_DRAWS)))
            if made is None:
                raise MixtureError(f"{reason}; no example can be made of it in split {split!r}") from error
        return {**made, REASON: tf.constant(reason)}

    signature = (tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int32))
    source = tf.data.Dataset.from_generator(records, output_signature=signature).unbatch()
    stream = guarded(source, stage1, rescue=rescue, parallel=parallel, stop=max(stop - start, 0))
    recipe, vocabulary = mixture.recipe, mixture.vocabulary

    def stages23(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        out = convert(unify(batch, vocabulary=vocabulary, recipe=recipe), recipe=recipe)
        return out | {"meta/prompt": batch["text_inputs"], "meta/target": batch["text_targets"]}

    stream = stream.ragged_batch(batch_size).map(stages23, num_parallel_calls=1, deterministic=True)
    has_box = mixture.task(task).has_box
    for values in stream.prefetch(2).with_options(data_options(parallel)):
        yield _split(values, batch_size, has_box)


def _split(values: dict[str, tf.Tensor], batch_size: int, has_box: bool) -> EvalBatch:
    """Separates model batch and metadata, and fills the batch up."""
    batch = {k: v.numpy() for k, v in values.items() if not k.startswith("meta/")}
    rows = len(batch["inputs/text/tokens"])
    if rows < batch_size:
        batch = {k: np.concatenate([v, np.repeat(v[:1], batch_size - rows, 0)]) for k, v in batch.items()}
    columns = {k.removeprefix("meta/"): _values(v) for k, v in values.items() if k.startswith("meta/")}
    # Some truths are encoded pictures: their bytes are no text.
    columns = {k: column if k.startswith("truth/") else _text(column) for k, column in columns.items()}
    reasons = columns.pop(REASON.removeprefix("meta/"))
    metadata = [{k: column[row] for k, column in columns.items()} for row in range(rows)]
    if not has_box:
        metadata = [{**row, "box": None} for row in metadata]
    return EvalBatch(batch, np.arange(batch_size) < rows, metadata, reasons)


def _values(value: tf.Tensor | tf.RaggedTensor) -> list[Any]:
    """A batched tensor as Python values."""
    return value.to_list() if isinstance(value, tf.RaggedTensor) else value.numpy().tolist()


def _text(value: Any) -> Any:
    """Values with bytes as text."""
    if isinstance(value, list):
        return [_text(v) for v in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
