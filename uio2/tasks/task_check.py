"""A few examples of a task through all three stages, and what came out: shapes, token counts, cuts, drops."""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uio2.pipeline.gin_config import GinConfig
from uio2.pipeline.stage import UsageError
from uio2.pipeline.store import Store, artifact_of
from uio2.tasks.converter import LOSS_MASKS
from uio2.tasks.datasets import StoredDataset
from uio2.tasks.eval_feed import count_eval_examples, eval_examples
from uio2.tasks.families import all_tasks, find_task
from uio2.tasks.mixture import Mixture, make_mixture
from uio2.tasks.mixtures import expand
from uio2.tasks.sources import DATASETS
from uio2.tasks.specs import RegisterSpec, TokenizerSpec
from uio2.tasks.task_list import dataset_of
from uio2.tasks.tokenizer_stage import dataset_lines, prompt_lines, train
from uio2.tasks.vocabulary import UnifiedVocabulary

CONFIG = "configs/tasks/check.gin"
TRAINED_LINES = 20_000
# Above the number of characters that any text we know holds; fewer pieces come out where the text is small.
TRAINED_PIECES = 8000


@dataclasses.dataclass(frozen=True)
class TaskData:
    """Where tasks find their data, and how their examples are shaped.

    Attributes:
      store: of the datasets and tokenizers that are not given.
      datasets: TFDS directory by input name.
      tokenizer: a SentencePiece file; None takes the store's newest, else trains one on the task's own text.
      gin_files, bindings: of `RegisterSpec`.
    """

    store: Store
    datasets: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tokenizer: str | None = None
    gin_files: Sequence[str] = ()
    bindings: Sequence[str] = ()

    def mixture(self, rates: Mapping[str, float]) -> Mixture:
        """Tasks and named mixtures with their rates, in the modalities they have unless gin says otherwise.

        Raises:
          TaskError: an unknown name.
          UsageError: data of a task is neither given nor in the store.
        """
        rates = expand(rates)
        tasks = [find_task(name) for name in rates]
        folders: dict[str, Path] = {}
        for task in tasks:
            found = dataset_of(task, store=self.store, given=self.datasets)
            if found is None:
                need = DATASETS.get(task.dataset)
                how = f"; build it with `uio2 build {need.build}` ({need.about})" if need else ""
                raise UsageError(f"task {task.name!r} needs the dataset {task.dataset!r}{how}, or give "
                                 f"--dataset {task.dataset}=DIR")  # fmt: skip
            folders[task.dataset] = found[1]
        recipe = self._recipe(rates)
        tokenizer = self._tokenizer(folders, prompts=sorted({t.prompts for t in tasks} - {""}))
        return make_mixture(recipe, datasets=folders, tokenizer=tokenizer)

    def _recipe(self, rates: Mapping[str, float]) -> RegisterSpec:
        tasks = [find_task(name) for name in rates]
        inputs = tuple(dict.fromkeys(["text", *(kind for task in tasks for kind in task.takes)]))
        targets = tuple(dict.fromkeys(task.makes for task in tasks))
        own = [f"tasks.RegisterSpec.rates={dict(rates)!r}", f"tasks.RegisterSpec.input_modalities={inputs!r}",
               f"tasks.RegisterSpec.target_modalities={targets!r}"]  # fmt: skip
        return GinConfig.parse([CONFIG, *self.gin_files], [*own, *self.bindings]).spec(RegisterSpec)

    def _tokenizer(self, folders: Mapping[str, Path], *, prompts: Sequence[str]) -> UnifiedVocabulary:
        if self.tokenizer:
            return UnifiedVocabulary.from_file(self.tokenizer)
        for record, path in reversed(self.store.records()):
            if (artifact := artifact_of(record, path)).kind == "tokenizer":
                return UnifiedVocabulary.from_file(artifact.path)
        lines = list(prompt_lines(prompts))
        for name, folder in folders.items():
            dataset = StoredDataset(folder)
            lines += [*dataset.classes(), *dataset_lines(dataset, name, lambda *_: None)]
        # A task may have no text of its own, and a dataset no train split: any words will do then.
        lines = lines or list(prompt_lines(sorted({task.prompts for task in all_tasks().values()} - {""})))
        return UnifiedVocabulary(
            train(lines[:TRAINED_LINES], spec=TokenizerSpec(vocab_size=TRAINED_PIECES)), source="trained on the data"
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """What `uio2 tasks check` says of one task.

    Attributes:
      task, dataset, split: what was read.
      total: examples the split has.
      examples: how many ran; `untaught` of them have a target without a single position in the loss.
      unusable: reason -> how many of them, see `uio2.tasks.guard`.
      lengths: `inputs` and `targets`: least, mean and most tokens, the limit, and how many texts were cut.
      shapes: model batch key -> shape of one example and dtype.
      filled: modality -> share of its positions that are not masked, mean of the examples.
      seconds: per example, the first batch (which compiles) not counted; 0 where there was no other.
      first: prompt and target of the first example.
    """

    task: str
    dataset: str
    split: str
    total: int
    examples: int
    untaught: int
    unusable: Mapping[str, int]
    lengths: Mapping[str, Mapping[str, float]]
    shapes: Mapping[str, str]
    filled: Mapping[str, float]
    seconds: float
    first: Mapping[str, str]

    @property
    def usable(self) -> bool:
        """Whether there is any example that can be read and teaches or asks something."""
        return self.examples > max(self.untaught, sum(self.unusable.values()))

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self) | {"usable": self.usable}

    def text(self) -> str:
        """For the terminal."""
        lines = [f"{self.task}: {self.examples} of {self.total} examples of {self.split} ({self.dataset})"]
        lines += [f"  {side}  {value!r}" for side, value in self.first.items()]
        for side, found in self.lengths.items():
            lines.append(f"  {side:<8}{found['least']:.0f} .. {found['most']:.0f} tokens, mean {found['mean']:.1f}, "
                         f"limit {found['limit']:.0f}, cut {found['cut']:.0f}")  # fmt: skip
        lines += [f"  {key:<32}{shape}" for key, shape in self.shapes.items()]
        lines.append("  filled  " + ", ".join(f"{key} {share:.0%}" for key, share in self.filled.items()))
        if self.seconds:
            lines.append(f"  {1e3 * self.seconds:.1f} ms an example")
        lines += [f"  {count} examples: {reason}" for reason, count in self.unusable.items()]
        if self.untaught:
            lines.append(f"  {self.untaught} examples have no target that counts in the loss")
        return "\n".join(lines)


def check_task(name: str, *, data: TaskData, split: str = "validation", count: int = 20) -> Report:
    """Runs `count` evaluation examples of a task through all stages.

    Raises:
      TaskError: there is no such task.
      UsageError: its data is not there, or holds no example.
    """
    mixture = data.mixture({name: 1.0})
    if not mixture.counts(name, split).sum():
        split = next((s for s in mixture.dataset(name).splits if mixture.counts(name, s).sum()), split)
    total = count_eval_examples(mixture, task=name, split=split)
    where = str(mixture.dataset(name).directory)
    if not total:
        fields = ", ".join(mixture.task(name).fields)
        raise UsageError(f"task {name!r}: no record of {where} holds usable {fields}")
    size = min(count, total, 8)
    batches, started, timed = [], time.monotonic(), 0.0
    for number, batch in enumerate(eval_examples(mixture, task=name, split=split, batch_size=size, limit=count)):
        batches.append(batch)
        if number == 0:
            started = time.monotonic()
        timed = time.monotonic() - started
    rows = [row for batch in batches for row in batch.metadata]
    valid = np.concatenate([batch.valid for batch in batches])
    keys = [key for key in batches[0].batch if not key.startswith("choices/")]
    values = {key: np.concatenate([batch.batch[key] for batch in batches])[valid] for key in keys}
    taught = functools.reduce(np.logical_or, [values[k].any(axis=1) for k in LOSS_MASKS if k in values])
    first = {"prompt": rows[0]["prompt"], "target": str(rows[0]["target"])}
    return Report(
        task=name, dataset=where, split=split, total=total, examples=len(rows), untaught=int((~taught).sum()),
        unusable=dict(collections.Counter(r.split(":")[0] for batch in batches for r in batch.reasons if r)),
        lengths=_lengths(rows, mixture.recipe),
        shapes={key: f"{value.dtype}{list(value.shape[1:])}" for key, value in values.items()},
        filled={key.removesuffix("/mask"): float(v.mean()) for key, v in values.items() if key.endswith("/mask")},
        seconds=timed / max(len(rows) - size, 1), first=first,
    )  # fmt: skip


def _lengths(rows: Sequence[Mapping[str, Any]], recipe: RegisterSpec) -> dict[str, dict[str, float]]:
    found = {}
    for side, limit in (("inputs", recipe.text_inputs), ("targets", recipe.text_targets)):
        tokens = np.array([row[f"length_{side}"] for row in rows])
        found[side] = {"least": float(tokens.min()), "most": float(tokens.max()), "mean": float(tokens.mean()),
                       "limit": float(limit), "cut": float((tokens > limit).sum())}  # fmt: skip
    return found
