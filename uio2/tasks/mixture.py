"""A mixture: tasks with rates over stored datasets, and how many examples each record holds.

`counts` of a (task, split) says for every record how many evaluation examples it gives; records with 0 are
never visited, so each training position yields exactly one example. It is found in one pass over the
fields (no image is decoded) and published with the mixture, so that later stages start at once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from uio2.model.config import ModelConfig
from uio2.pipeline.stage import spec_from_json
from uio2.tasks.datasets import DatasetError, StoredDataset
from uio2.tasks.families import TaskError, find_task
from uio2.tasks.model_check import mismatch
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Setting, Task, preprocessor
from uio2.tasks.vocabulary import UnifiedVocabulary

MIXTURE_FILE = "mixture.json"


class MixtureError(Exception):
    """A mixture that cannot be used as asked: names the setting, its value and what was expected."""


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Tasks, their data and the vocabulary; cheap to make, reads data on use.

    Attributes:
      recipe: rates, lengths and sizes.
      datasets: by input name (`coco`, `refcoco`).
      vocabulary: extended vocabulary.
      counts_at: folder with published counts, or None to count on first use.
    """

    recipe: RegisterSpec
    datasets: Mapping[str, StoredDataset]
    vocabulary: UnifiedVocabulary
    counts_at: Path | None = None

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, in the order of the recipe."""
        return list(self.recipe.rates)

    def task(self, name: str) -> Task:
        """The task family of a name.

        Raises:
          MixtureError: the mixture has no such task.
        """
        if name not in self.recipe.rates:
            raise MixtureError(f"task {name!r} is not in the mixture; it has {', '.join(self.recipe.rates)}")
        return find_task(name)

    def dataset(self, name: str) -> StoredDataset:
        """The dataset a task reads."""
        return self.datasets[self.task(name).dataset]

    def parser(self, name: str) -> Callable:
        """Serialized record -> the fields the task needs."""
        return self.dataset(name).parser((*self.task(name).media_fields, *self.task(name).fields))

    def preprocessor(self, name: str, *, training: bool) -> Callable:
        """Stage 1 of a task, see `uio2.tasks.task.preprocessor`."""
        classes = self.dataset(name).classes()
        tokens = tuple(len(self.vocabulary.encode(label.lower())) for label in classes)
        setting = Setting(self.recipe, classes=classes, class_tokens=tokens, training=training)
        return preprocessor(self.task(name), setting=setting)

    def check_model(self, config: ModelConfig) -> None:
        """Raises `MixtureError` if a model of this config cannot eat the batches."""
        wrong = mismatch(self.recipe, config)
        if wrong:
            raise MixtureError(wrong)
        if config.text_vocab_size < self.vocabulary.vocab_size:
            raise MixtureError(
                f"the model's text_vocab_size is {config.text_vocab_size}, the tokenizer has "
                f"{self.vocabulary.vocab_size} pieces; expected {self.vocabulary.padded_size}"
            )

    @functools.cache  # noqa: B019  one or two mixtures per process
    def counts(self, name: str, split: str) -> np.ndarray:
        """int32 [records]: evaluation examples of the task in each record of the split.

        Raises:
          MixtureError: published counts belong to another dataset.
        """
        records = self.dataset(name).splits.get(split, 0)
        if not records:
            return np.zeros(0, np.int32)
        stored = counts_file(self.counts_at, name, split) if self.counts_at else None
        if stored and stored.is_file():
            counts = np.load(stored)
            if len(counts) != records:
                raise MixtureError(f"{stored}: counts {len(counts)} records, the dataset has {records}; register again")
            return counts
        task = self.task(name)
        stream = self.dataset(name).stream(split, task.fields)
        sizes = stream.map(lambda record: tf.size(task.eval_items(record, self.recipe)), num_parallel_calls=2)
        return np.fromiter(sizes.as_numpy_iterator(), np.int32)


def counts_file(folder: Path, name: str, split: str) -> Path:
    """Where a mixture artifact keeps the counts of a task and split."""
    return folder / "counts" / f"{name}-{split}.npy"


def make_mixture(recipe: RegisterSpec, *, datasets: Mapping[str, str | Path], tokenizer: str | Path | UnifiedVocabulary,
                 counts_at: Path | None = None) -> Mixture:  # fmt: skip
    """Opens the data of a recipe.

    Args:
      recipe: rates, lengths and sizes.
      datasets: TFDS directory by input name.
      tokenizer: a SentencePiece file, a folder with `tokenizer.model`, or a vocabulary.
      counts_at: see `Mixture`.

    Raises:
      MixtureError: an unknown task, or a dataset that a task needs is not given.
    """
    for name in recipe.rates:
        try:
            needed = find_task(name).dataset
        except TaskError as error:
            raise MixtureError(f"RegisterSpec.rates: {error}") from error
        if needed not in datasets:
            raise MixtureError(
                f"task {name!r} needs the dataset {needed!r}; given: {sorted(datasets)}. Build it or remove the task"
            )
    stored = {name: StoredDataset(path) for name, path in datasets.items()}
    if not isinstance(tokenizer, UnifiedVocabulary):
        tokenizer = UnifiedVocabulary.from_file(tokenizer)
    return Mixture(recipe, stored, tokenizer, counts_at)


def open_mixture(folder: str | Path, *, datasets: Mapping[str, str | Path], tokenizer: str | Path) -> Mixture:
    """A published mixture (the `register` stage's artifact) over the datasets and tokenizer it was made with.

    Raises:
      MixtureError: no `mixture.json`, or the tokenizer is another one.
    """
    path = Path(folder) / MIXTURE_FILE
    if not path.is_file():
        raise MixtureError(f"{path}: no such file; expected the artifact of a register stage")
    values = json.loads(path.read_text())
    recipe = spec_from_json(RegisterSpec, values["recipe"])
    mixture = make_mixture(recipe, datasets=datasets, tokenizer=tokenizer, counts_at=Path(folder))
    if mixture.vocabulary.sha256 != values["tokenizer"]["sha256"]:
        raise MixtureError(f"{tokenizer}: another tokenizer than the mixture was registered with; register again")
    return mixture


__all__ = ["DatasetError", "Mixture", "MixtureError", "make_mixture", "open_mixture"]
