"""A night: train on the datasets as they are now from the champion, evaluate both on the same examples, promote.

    raw-*, build-*                       the datasets (flows/build.py); files that did not change are found published
    [tokenizer] -> register -> train     from MODEL@champion; in the first night from a given checkpoint
    predict, predict-champion            of the same mixture, so that both answered the same examples
    score, score-champion -> report, promote

The champion's digest is an input of `train`, so after a promotion the same data would make another training. A night
is therefore asked by its data and settings: where one with the same datasets, recipe, suite and gate was decided
before, the start of that night is taken again, and all of it is found published. So a night is new when data or
settings are, and a night that was killed goes on where it stopped.

Reproduces: nothing. Cost, score: those of the recipe, and two evaluations.
Run: prefect deployment run finetune/refexp-nightly
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flows import finetune
from uio2.evaluate.specs import PREDICT, PROMOTE, REPORT, SCORE, PredictSpec, PromoteSpec, ReportSpec, ScoreSpec
from uio2.pipeline import registry
from uio2.pipeline.gin_config import GinConfig
from uio2.pipeline.plan import CACHED, plan, upstream
from uio2.pipeline.sources import source_artifact
from uio2.pipeline.stage import Pipeline, Source, Stage, UsageError, spec_to_json
from uio2.pipeline.store import Store
from uio2.tasks.families import find_task
from uio2.tasks.sources import DATASETS

CONFIG = "configs/pipelines/nightly.gin"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a night is asked with, beside the data.

    Attributes:
      model_name: in the registry; its champion is where a night starts, and what it must beat.
      name: first part of the artifacts' names.
      initial_checkpoint: where the first night starts, as `uio2.train.starting.find_start` takes it.
      gin_files: the recipe, and the model's file where the checkpoint does not say what it is.
      gin: bindings of the recipe.
      suites: gin files of the evaluation, read after `CONFIG`.
      evaluation: bindings of the evaluation and of the gate.
    """

    model_name: str
    name: str
    initial_checkpoint: str
    gin_files: tuple[str, ...]
    gin: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Judges:
    """The specs of the evaluation."""

    predict: PredictSpec
    score: ScoreSpec
    report: ReportSpec
    promote: PromoteSpec


@dataclasses.dataclass(frozen=True)
class Night:
    """What runs tonight.

    Attributes:
      pipeline: its stages behind the datasets.
      about: one line: where it starts and why.
    """

    pipeline: Pipeline
    about: str


def check(settings: Settings, *, store: Store) -> None:
    """Finds what is wrong with the settings before any dataset is built; UsageError names it."""
    found = _recipe(settings, _start(settings, store), store=store)
    judges(settings, tasks=tuple(found.register.rates))


def night(settings: Settings, *, datasets: Mapping[str, str], store: Store) -> Night:
    """The night for these datasets.

    Args:
      settings: checked.
      datasets: folders by input name, artifacts of the store among them; the others are the newest of the store.
      store: where the champion and earlier nights are.

    Raises:
      UsageError: all that is wrong, a line each.
    """
    start = _start(settings, store)
    tonight = _pipeline(settings, start, datasets=datasets, champion=_reigns(settings, store), store=store)
    for reference, champion in _earlier(tonight, store=store):
        before = _pipeline(settings, reference, datasets=datasets, champion=champion, store=store)
        if _decided(before, store=store):
            return Night(before, f"nothing new: decided in the night that started from {reference}")
    return Night(tonight, f"starts from {start}")


def built(names: Sequence[str], made: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The folders of datasets that a build made, by the input name that tasks know them by.

    Args:
      names: of the builders, as `uio2 build` knows them.
      made: name and URI of each artifact, as the stages' tasks return them.
    """
    places = {row["name"].partition("/")[2]: row["uri"] for row in made}
    return {key: places[need.stage] for key, need in DATASETS.items() if need.build in names}


def judges(settings: Settings, *, tasks: Sequence[str]) -> Judges:
    """The evaluation; where no suite names tasks, all of the recipe's that can be scored are predicted."""
    config = GinConfig.parse([CONFIG, *settings.suites], settings.evaluation)
    predict = config.spec(PredictSpec)
    if "tasks" not in config.names.bound(PredictSpec):
        predict = dataclasses.replace(predict, tasks=tuple(name for name in tasks if find_task(name).score))
    promote = dataclasses.replace(config.spec(PromoteSpec), model_name=settings.model_name)
    found = Judges(predict, config.spec(ScoreSpec), config.spec(ReportSpec), promote)
    config.check_used(pipeline=settings.name, own=CONFIG)
    return found


def _reigns(settings: Settings, store: Store) -> bool:
    return bool(registry.versions(store, settings.model_name))


def _start(settings: Settings, store: Store) -> str:
    if _reigns(settings, store):
        return settings.model_name
    if not settings.initial_checkpoint:
        raise UsageError(
            f"initial_checkpoint is empty, and model {settings.model_name!r} has no champion in {store.root} yet; give "
            "the checkpoint that the first night starts from"
        )
    return settings.initial_checkpoint


def _bindings(settings: Settings, start: str) -> list[str]:
    return [f"recipe.Recipe.pipeline={settings.name!r}", *settings.gin, f"INITIAL_CHECKPOINT={start!r}"]


def _recipe(settings: Settings, start: str, *, store: Store) -> finetune.Settings:
    return finetune.settings(settings.gin_files, _bindings(settings, start), store=store)


def _pipeline(settings: Settings, start: str, *, datasets: Mapping[str, str], champion: bool, store: Store) -> Pipeline:
    """The training from `start`, and its evaluation against it where that is the `champion`."""
    ready = finetune.prepared(settings.gin_files, _bindings(settings, start), store=store, given=datasets)
    specs = judges(settings, tasks=tuple(ready.found.register.rates))
    train = ready.pipeline.stages[-1]
    shared = {key: value for key, value in train.inputs.items() if key != "initial"}
    data = {key: value for key, value in shared.items() if key not in ("mixture", "tokenizer")}

    def evaluated(suffix: str, checkpoint: Stage | Source) -> tuple[Stage, Stage]:
        predict = Stage(f"predict{suffix}", PREDICT, specs.predict, {"checkpoint": checkpoint, **shared})
        return predict, Stage(f"score{suffix}", SCORE, specs.score, {"predictions": predict, **data})

    predict, score = evaluated("", train)
    reigning = evaluated("-champion", train.inputs["initial"]) if champion else ()
    report = Stage("report", REPORT, specs.report, {"score": score, "predictions": predict, "train": train, **data})
    asked: dict[str, Stage | Source] = {"train": train, "score": score}
    if reigning:
        asked["champion"] = reigning[1]
    promote = Stage("promote", PROMOTE, specs.promote, asked)
    return Pipeline(settings.name, (*ready.pipeline.stages, predict, score, *reigning, report, promote))


def _earlier(tonight: Pipeline, *, store: Store) -> Iterator[tuple[str, bool]]:
    """Where earlier nights on these datasets with this recipe started, newest first, each as champion and as none."""
    train = tonight.stages[_index(tonight, "train")]
    digests = {
        name: source_artifact(value, store=store, name=name).digest
        for name, value in train.inputs.items()
        if isinstance(value, Source)
    }
    spec, seen = spec_to_json(train.spec), {digests.pop("initial")}
    for record, _ in reversed(store.records(name=f"{tonight.name}/train")):
        before = record["inputs"]
        if record["spec"] != spec or any(before.get(name, {}).get("digest") != d for name, d in digests.items()):
            continue
        initial = before["initial"]
        if initial["digest"] in seen:
            continue
        seen.add(initial["digest"])
        reference = initial.get("path") or f"{initial['name']}@{initial['fingerprint']}"
        if "path" not in initial or Path(reference).exists():
            yield from ((reference, True), (reference, False))


def _decided(pipeline: Pipeline, *, store: Store) -> bool:
    stages = upstream(pipeline, ["promote"])
    return plan(pipeline, store=store, stages=stages)[-1].status == CACHED


def _index(pipeline: Pipeline, name: str) -> int:
    return next(n for n, stage in enumerate(pipeline.stages) if stage.name == name)
