"""The list of tasks with what each needs and whether it is there. Light: no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uio2.pipeline.artifact import Artifact
from uio2.pipeline.store import Store, artifact_of
from uio2.tasks.families import all_tasks
from uio2.tasks.mixtures import MIXTURES, shares
from uio2.tasks.sources import DATASETS
from uio2.tasks.task import Task


def rows(store: Store, *, given: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """One row per task; keys are the columns of `uio2 tasks`, and `about` and `ready`."""
    found = []
    for name, task in all_tasks().items():
        place = dataset_of(task, store=store, given=given or {})
        need = DATASETS.get(task.dataset)
        found.append({
            "task": name,
            "input": " ".join(("text", *task.takes)),
            "output": task.makes,
            "prompts": task.prompts or "-",
            "scored by": task.score or "-",
            "dataset": task.dataset,
            "built": place[0] if place else (f"no: uio2 build {need.build}" if need else "no"),
            "about": task.about,
            "ready": place is not None,
        })  # fmt: skip
    return found


def mixture_rows(tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per named mixture, from the rows of the tasks; `shares` says what each of its tasks gets."""
    ready = {row["task"]: row["ready"] for row in tasks}
    return [
        {
            "mixture": name,
            "about": mixture.about,
            "members": ", ".join(mixture.weights),
            "built": f"{sum(ready.get(task, False) for task in shares(name))} of {len(shares(name))} tasks",
            "ready": all(ready.get(task, False) for task in shares(name)),
            "shares": shares(name),
        }
        for name, mixture in MIXTURES.items()
    ]


def dataset_of(task: Task, *, store: Store, given: Mapping[str, str]) -> tuple[str, Path] | None:
    """What a task would read: a name to show and the TFDS directory; the newest of the store unless one is given."""
    if task.dataset in given:
        return given[task.dataset], Path(given[task.dataset])
    artifact = stored(task.dataset, store=store)
    return (artifact.name, artifact.path / artifact.stats["tfds_dir"]) if artifact else None


def stored(dataset: str, *, store: Store) -> Artifact | None:
    """The newest artifact of the store that is the dataset of this input name; None if there is none."""
    need = DATASETS.get(dataset)
    if need is None:
        return None
    for record, path in reversed(store.records()):
        artifact = artifact_of(record, path)
        if artifact.kind == "dataset" and artifact.name.endswith(f"/{need.stage}"):
            return artifact
    return None
