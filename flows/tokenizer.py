"""A tokenizer of its own, trained on the texts of datasets, for models that start from fresh parameters.

Reproduces: nothing; the published models bring theirs.
Cost: not measured; SentencePiece reads at most `max_sentences` texts. Score: none.
Run: prefect deployment run train-tokenizer -p datasets='["coco", "refcoco"]' -p vocab_size=16000
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uio2.pipeline.stage import Pipeline, Source, Stage, StageError, UsageError
from uio2.pipeline.store import Store
from uio2.tasks.families import all_tasks
from uio2.tasks.sources import DATASETS
from uio2.tasks.specs import TRAIN_TOKENIZER, TokenizerSpec
from uio2.tasks.task_list import stored

NAME = "tokenizers"


def pipeline_of(
    names: Sequence[str], folders: Mapping[str, str], *, store: Store, settings: Mapping[str, Any]
) -> Pipeline:
    """The one stage, `tokenizers/tokenizer`.

    Args:
      names: datasets of the store, by input name (`uio2 tasks` lists them); the newest of each is read.
      folders: TFDS directories, or folders of dataset artifacts, by input name.
      store: where the artifacts are.
      settings: fields of `TokenizerSpec`; without `prompts` those of all tasks that read these datasets.

    Raises:
      UsageError: all that is wrong with the datasets, a line each, or a setting that cannot be meant.
    """
    wanted = dict.fromkeys([*names, *folders])
    places = {name: _place(name, folders, store=store) for name in wanted}
    problems = [f"datasets: {text}" for text in places.values() if isinstance(text, str)]
    if not wanted:
        problems = [f"datasets: none given; expected one or more of {', '.join(DATASETS)}"]
    if problems:
        raise UsageError("\n".join(problems))
    prompts = {task.prompts for task in all_tasks().values() if task.dataset in wanted and task.prompts}
    try:
        spec = TokenizerSpec(**{"prompts": tuple(sorted(prompts)), **settings})
    except StageError as error:
        raise UsageError(str(error)) from error
    data = {name: Source(str(place)) for name, place in places.items()}
    return Pipeline(NAME, (Stage("tokenizer", TRAIN_TOKENIZER, spec, data),))


def _place(name: str, folders: Mapping[str, str], *, store: Store) -> Path | str:
    """Where a dataset lies, or what is wrong with it."""
    if name not in DATASETS:
        return f"there is no {name!r}; expected names out of {', '.join(DATASETS)}"
    if name in folders:
        folder = Path(folders[name]).expanduser()
        if any(folder.glob("**/dataset_info.json")):
            return folder
        return f"{name} = {folder} holds no dataset_info.json; expected a TFDS directory with its version"
    artifact = stored(name, store=store)
    return artifact.path if artifact else (
        f"{name!r} is not in the store {store.root}; build it (uio2 build {DATASETS[name].build}), or give its folder"
    )  # fmt: skip
