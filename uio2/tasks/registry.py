"""The tasks as seqio knows them: for users with their own seqio loop, for mixtures and inspection.

The same stage functions as the feeds, over `seqio.TfdsDataSource`. As users of the original expect,
`sequence_length={"is_training": True, ...}` asks for training examples (one per record, random choices);
without it a task yields its evaluation examples.

seqio has no place for an example that cannot be made: one whose file does not decode is left out, and the log counts
them (TensorFlow's own log says what was wrong). So numbers of examples here and in the feeds may differ.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from uio2.tasks.converter import task_features
from uio2.tasks.guard import REASON, blank
from uio2.tasks.mixture import Mixture, make_mixture
from uio2.tasks.mixtures import MIXTURES, shares
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import NUM_DRAWS
from uio2.tasks.unified import unify_one

SPLITS = ("train", "validation")
_LOG = logging.getLogger(__name__)


def register(recipe: RegisterSpec, *, datasets: Mapping[str, str | Path], tokenizer: str | Path,
             mixture_name: str = "uio2") -> Mixture:  # fmt: skip
    """Registers every task of the recipe with seqio, their mixture, and the named mixtures (`uio2.tasks.mixtures`) all
    of whose tasks are among them; calling it again replaces them.

    Args:
      recipe: rates, lengths and sizes.
      datasets: TFDS directory by input name.
      tokenizer: a SentencePiece file, or a folder with `tokenizer.model`.
      mixture_name: name in `seqio.MixtureRegistry`.

    Returns:
      The mixture the feeds work on.
    """
    mixture = make_mixture(recipe, datasets=datasets, tokenizer=tokenizer)
    for name in mixture.tasks:
        if name in seqio.TaskRegistry.names():
            seqio.TaskRegistry.remove(name)
        _add(mixture, name)
    whole = {name: shares(name) for name in MIXTURES if shares(name).keys() <= set(mixture.tasks)}
    for name, rates in ({mixture_name: mixture.recipe.rates} | whole).items():
        if name in seqio.MixtureRegistry.names():
            seqio.MixtureRegistry.remove(name)
        seqio.MixtureRegistry.add(name, [(task, rate) for task, rate in rates.items() if rate > 0])
    return mixture


def _add(mixture: Mixture, name: str) -> None:
    dataset = mixture.dataset(name)
    source = seqio.TfdsDataSource(
        tfds_data_dir=str(dataset.directory),
        splits=[s for s in SPLITS if s in dataset.splits],
        decoders={"image": tfds.decode.SkipDecoding()} if "image" in dataset.features else None,
        read_only=True,
    )

    def stage2(ds: tf.data.Dataset) -> tf.data.Dataset:
        return ds.map(lambda ex: unify_one(ex, vocabulary=mixture.vocabulary, recipe=mixture.recipe))

    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[_stage1(mixture, name), stage2],
        output_features=_output_features(mixture),
        metric_fns=[],
    )


def _stage1(mixture: Mixture, name: str) -> Callable:
    task, recipe = mixture.task(name), mixture.recipe

    def preprocess(ds: tf.data.Dataset, sequence_length: Mapping[str, int] | None) -> tf.data.Dataset:
        training = bool((sequence_length or {}).get("is_training", False))
        prepare = mixture.preprocessor(name, training=training)
        made = _left_out_where_broken(prepare, name=name)
        if training:
            ds = ds.filter(lambda record: tf.size(task.eval_items(record, recipe)) > 0)

            def one(record: Mapping, seed: tf.Tensor) -> tuple:
                return record, tf.constant(0), tf.random.stateless_uniform([NUM_DRAWS], seed)

            return seqio.map_over_dataset(one, num_seeds=1)(ds).flat_map(made)

        def every(record: Mapping) -> tf.data.Dataset:
            items = tf.data.Dataset.range(tf.size(task.eval_items(record, recipe), out_type=tf.int64))
            return items.flat_map(lambda item: made(record, tf.cast(item, tf.int32), tf.zeros(NUM_DRAWS)))

        return ds.flat_map(every)

    return preprocess


def _left_out_where_broken(prepare: Callable[..., Mapping], *, name: str) -> Callable[..., tf.data.Dataset]:
    """`prepare` as a function that gives a dataset of one example, or of none."""
    numbers = itertools.count(1)

    def log() -> np.bool_:
        _LOG.warning("task %s: %d examples left out so far; they cannot be read", name, next(numbers))
        return np.bool_(False)

    def made(*inputs: Any) -> tf.data.Dataset:
        found = tf.data.Dataset.from_tensors(inputs).map(prepare).ignore_errors(log_warning=True)
        stand_in = {key: value for key, value in blank(found.element_spec, reason="").items() if key != REASON}
        # Reached only where nothing was found, and then left out itself.
        logged = tf.data.Dataset.from_tensors(stand_in).filter(lambda _: tf.numpy_function(log, [], tf.bool))
        return found.concatenate(logged).take(1)

    return made


def _output_features(mixture: Mixture) -> dict[str, seqio.Feature]:
    plain = seqio.PassThroughVocabulary(mixture.vocabulary.vocab_size)
    return {
        key: seqio.Feature(
            mixture.vocabulary if key.endswith("/tokens") else plain,
            add_eos=False,
            dtype=tf.as_dtype(feature.dtype),
            rank=len(feature.shape),
        )
        for key, feature in task_features(mixture.recipe).items()
    }
