"""A mixture: tasks with rates over stored datasets, and how many examples each record holds.

`counts` of a (task, split) says for every record how many evaluation examples it gives; records with 0 are
never visited, so each training position yields exactly one example. It is found in one pass over the
fields (no image is decoded) and published with the mixture, so that later stages start at once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from uio2.model.config import ModelConfig
from uio2.pipeline.stage import spec_from_json
from uio2.tasks.datasets import DatasetError, StoredDataset
from uio2.tasks.families import find_task
from uio2.tasks.model_check import mismatches
from uio2.tasks.sources import DATASETS
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Setting, Task, preprocessor
from uio2.tasks.vocabulary import UnifiedVocabulary, tokenizer_mismatch

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
        setting = Setting(self.recipe, classes=classes, tokens=self._tokens, training=training)
        return preprocessor(self.task(name), setting=setting)

    def _tokens(self, text: str) -> int:
        return len(self.vocabulary.encode(text))

    def check_model(self, config: ModelConfig) -> None:
        """Raises `MixtureError` if a model of this config cannot eat the batches."""
        sizes = mismatches(self.recipe, config)
        if sizes:
            raise MixtureError("; ".join(sizes))
        wrong = tokenizer_mismatch(self.vocabulary, rows=config.text_vocab_size)
        if wrong:
            raise MixtureError(wrong)

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

    Returns:
      The mixture; its recipe lacks the tasks that were left out (`RegisterSpec.missing_data`).

    Raises:
      MixtureError: a dataset that a task needs is not given.
    """
    missing = [name for name in recipe.rates if find_task(name).dataset not in datasets]
    if missing and recipe.missing_data == "error":
        raise MixtureError(_missing_data(missing, given=datasets))
    if missing:
        recipe = without_tasks(recipe, missing)
    stored = {name: StoredDataset(path) for name, path in datasets.items()}
    if not isinstance(tokenizer, UnifiedVocabulary):
        tokenizer = UnifiedVocabulary.from_file(tokenizer)
    return Mixture(recipe, stored, tokenizer, counts_at)


def _missing_data(names: Sequence[str], *, given: Mapping[str, str | Path]) -> str:
    needed = {name: find_task(name).dataset for name in names}
    builds = [f"uio2 build {DATASETS[d].build}" for d in dict.fromkeys(needed.values()) if d in DATASETS]
    return (
        f"{', '.join(f'task {name!r} needs the dataset {dataset!r}' for name, dataset in needed.items())}; "
        f"given: {sorted(given)}. Build what is missing ({', '.join(builds)}), remove the tasks, or set "
        f"RegisterSpec.missing_data = 'leave_out'"
    )


def without_tasks(recipe: RegisterSpec, names: Sequence[str]) -> RegisterSpec:
    """The recipe without these tasks, nor prompts that only they used."""
    rates = {name: rate for name, rate in recipe.rates.items() if name not in names}
    if not any(rate > 0 for rate in rates.values()):
        raise MixtureError(f"no task of RegisterSpec.rates has its data; without it are {', '.join(names)}")
    used = {find_task(name).prompts for name in rates}
    prompts = {family: text for family, text in recipe.prompts.items() if family in used}
    return dataclasses.replace(recipe, rates=rates, prompts=prompts)


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
    registered, given = values["tokenizer"], mixture.vocabulary
    if given.sha256 != registered["sha256"]:
        raise MixtureError(
            f"{tokenizer}: another tokenizer than the mixture was registered with: {given.base_size} pieces, sha256 "
            f"{given.sha256[:12]}; expected {registered['base_size']} pieces, {registered['sha256'][:12]}. Give that "
            f"one, or register again and train again, since every id means another piece"
        )
    return mixture


__all__ = ["DatasetError", "Mixture", "MixtureError", "make_mixture", "open_mixture", "without_tasks"]
