"""A night: train on the datasets as they are now from the champion, evaluate both on the same examples, promote.

    raw-*, build-*                              the datasets (flows/build.py); unchanged files are found published
    register -> train                           by the recipe, from the champion; at first from a given checkpoint
    register-suite -> predict, predict-champion -> score, score-champion -> report      by the suite, the same for both
    promote                                     the suite's gate, and better than the champion

The champion's digest is an input of `train`, so after a promotion the same data would make another training. A night
is therefore known by its data and settings: where one with the same datasets, recipe, suite and gate was decided
before, the start of that night is taken again, and all of it is found published. So a night is new when data or
settings are, and a night that was killed goes on where it stopped.

Reproduces: nothing. Cost, score: those of the recipe, and two evaluations.
Run: prefect deployment run finetune/refexp-nightly
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flows import evaluate, finetune
from uio2.evaluate.champion import find_champion
from uio2.evaluate.specs import PROMOTE, GateSpec, PromoteSpec
from uio2.model.config import ModelConfig
from uio2.pipeline.plan import CACHED, plan, upstream
from uio2.pipeline.sources import source_artifact
from uio2.pipeline.stage import Pipeline, Source, Stage, StageError, UsageError, spec_to_json
from uio2.pipeline.store import Record, Store
from uio2.tasks.families import find_task
from uio2.tasks.sources import DATASETS

INITIAL = "initial"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a night is asked with, beside the data.

    Attributes:
      model_name: in the registry; its champion is where a night starts, and what it must beat.
      name: first part of the artifacts' names.
      initial_checkpoint: where nights start while there is no champion, as `uio2.train.starting.find_start` takes it.
      recipe, gin: gin files of the training, the model's among them where no checkpoint says what it is; bindings.
      suite, suite_gin: the same of the evaluation.
      improve, significance, max_fall: as in `PromoteSpec`; the suite's gate says the rest.
    """

    model_name: str
    name: str
    initial_checkpoint: str
    recipe: tuple[str, ...]
    suite: tuple[str, ...]
    gin: tuple[str, ...] = ()
    suite_gin: tuple[str, ...] = ()
    improve: str = ""
    significance: float = PromoteSpec.significance
    max_fall: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def of_recipe(self, start: str) -> list[str]:
        """Bindings of the training from a checkpoint."""
        return [f"recipe.Recipe.pipeline={self.name!r}", *self.gin, f"INITIAL_CHECKPOINT={start!r}"]

    def of_suite(self, start: str) -> list[str]:
        """Bindings of the evaluation, checked on the checkpoint that the training starts from."""
        return [f"suite.Suite.pipeline={self.name!r}", *self.suite_gin, f"CHECKPOINT={start!r}"]

    def conditions(self, gate: GateSpec) -> PromoteSpec:
        """What the model must reach; UsageError for a setting that cannot be meant."""
        try:
            return PromoteSpec(
                self.model_name, gate.min_value, gate.max_value, gate.min_margin,
                improve=self.improve, significance=self.significance, max_fall=self.max_fall,
            )  # fmt: skip
        except StageError as error:
            raise UsageError(str(error)) from error


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
    """Finds what is wrong with the settings before any dataset is built; UsageError says it."""
    start, _ = _start(settings, store)
    finetune.settings(settings.recipe, settings.of_recipe(start), store=store)
    settings.conditions(evaluate.settings(settings.suite, settings.of_suite(start), store=store).gate)


def night(settings: Settings, *, datasets: Mapping[str, str], store: Store) -> Night:
    """The night for these datasets.

    Args:
      settings: checked.
      datasets: folders by input name, artifacts of the store among them; the others are the newest of the store.
      store: where the champion and earlier nights are.

    Raises:
      UsageError: all that is wrong, a line each.
    """
    start, reigns = _start(settings, store)
    tonight = _pipeline(settings, start, datasets=datasets, reigns=reigns, store=store)
    for reference in _earlier(tonight, store=store):
        for reigned in (True, False):
            before = _pipeline(settings, reference, datasets=datasets, reigns=reigned, store=store)
            if _decided(before, store=store):
                return Night(before, f"nothing new: decided in the night that started from {reference}")
    return Night(tonight, f"starts from {start}" + (", the champion" if reigns else ": there is no champion yet"))


def built(names: Sequence[str], made: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The folders of datasets that a build made, by the input name that tasks know them by.

    Args:
      names: of the builders, as `uio2 build` knows them.
      made: name and URI of each artifact, as the stages' tasks return them.
    """
    places = {row["name"].partition("/")[2]: row["uri"] for row in made}
    return {key: places[need.stage] for key, need in DATASETS.items() if need.build in names}


def _start(settings: Settings, store: Store) -> tuple[str, bool]:
    """The checkpoint to start from, and whether it is the champion."""
    if champion := find_champion(store, settings.model_name):
        return champion.reference, True
    if not settings.initial_checkpoint:
        raise UsageError(
            f"initial_checkpoint is empty, and model {settings.model_name!r} has no champion in {store.root} yet; give "
            "the checkpoint that the first night starts from"
        )
    return settings.initial_checkpoint, False


def _pipeline(settings: Settings, start: str, *, datasets: Mapping[str, str], reigns: bool, store: Store) -> Pipeline:
    """The training from `start` and its evaluation, against `start` where that is the champion."""
    recipe = finetune.settings(settings.recipe, settings.of_recipe(start), store=store).register.rates
    suite = evaluate.settings(settings.suite, settings.of_suite(start), store=store)
    read = [{find_task(name).dataset for name in rates} for rates in (recipe, suite.register.rates)]
    if unread := [name for name in datasets if not any(name in names for names in read)]:
        raise UsageError(f"builds: {unread[0]} is read by no task of the recipe or the suite; leave it out")
    first, second = ({name: path for name, path in datasets.items() if name in names} for names in read)
    trained = finetune.prepared(settings.recipe, settings.of_recipe(start), store=store, given=first)
    judged = evaluate.prepared(settings.suite, settings.of_suite(start), store=store, given=second)
    train = trained.pipeline.stages[-1]
    evaluation = _evaluation(judged, train, champion=train.inputs[INITIAL] if reigns else None)
    scores = {stage.name: stage for stage in evaluation if stage.name.startswith("score")}
    asked: dict[str, Stage | Source] = {"train": train, "score": scores["score"]}
    if reigns:
        asked["champion"] = scores["score-champion"]
    promote = Stage("promote", PROMOTE, settings.conditions(judged.found.gate), asked)
    return Pipeline(settings.name, (*trained.pipeline.stages, *evaluation, promote))


def _evaluation(judged: evaluate.Ready, train: Stage, *, champion: Stage | Source | None) -> tuple[Stage, ...]:
    """The suite's stages for what `train` makes and, on the same mixture, for the champion."""
    by_name = {stage.name: stage for stage in judged.pipeline.stages}
    mixture = dataclasses.replace(by_name["register"], name="register-suite")

    def scored(suffix: str, checkpoint: Stage | Source, spec: object) -> tuple[Stage, Stage]:
        inputs = {**by_name["predict"].inputs, "checkpoint": checkpoint, "mixture": mixture}
        predict = dataclasses.replace(by_name["predict"], name=f"predict{suffix}", spec=spec, inputs=inputs)
        inputs = {**by_name["score"].inputs, "predictions": predict}
        return predict, dataclasses.replace(by_name["score"], name=f"score{suffix}", inputs=inputs)

    # The new checkpoint says of itself what it is; where that is what the suite wants, nothing is to be changed.
    wanted = judged.found.model.model_config
    same = ModelConfig.from_dict(wanted) == ModelConfig.from_dict(train.spec.model_config)
    spec = dataclasses.replace(judged.found.predict, model_config={} if same else wanted)
    predict, score = scored("", train, spec)
    against = () if champion is None else scored("-champion", champion, judged.found.predict)
    shown = {**by_name["report"].inputs, "score": score, "predictions": predict, "train": train}
    return mixture, predict, score, *against, dataclasses.replace(by_name["report"], inputs=shown)


def _earlier(tonight: Pipeline, *, store: Store) -> Iterator[str]:
    """Other checkpoints that nights on these datasets with this recipe started from, the newest night first."""
    train = next(stage for stage in tonight.stages if stage.name == "train")
    given = {name: value for name, value in train.inputs.items() if isinstance(value, Source)}
    digests = {name: source_artifact(value, store=store, name=name).digest for name, value in given.items()}
    spec, seen = spec_to_json(train.spec), {digests.pop(INITIAL)}
    for record, _ in reversed(store.records(name=f"{tonight.name}/train")):
        before: Record = record["inputs"]
        same = all(before.get(name, {}).get("digest") == digest for name, digest in digests.items())
        if same and record["spec"] == spec and before[INITIAL]["digest"] not in seen:
            seen.add(before[INITIAL]["digest"])
            if reference := _found_again(before[INITIAL], store=store):
                yield reference


def _found_again(initial: Record, *, store: Store) -> str:
    """How to name a checkpoint that a training started from; "" where it is gone."""
    if "path" in initial:
        return initial["path"] if Path(initial["path"]).exists() else ""
    there = store.find(initial["fingerprint"], name=initial["name"])
    return f"{initial['name']}@{initial['fingerprint']}" if there else ""


def _decided(pipeline: Pipeline, *, store: Store) -> bool:
    """Whether the night's decision is published."""
    stages = upstream(pipeline, ["promote"])
    return plan(pipeline, store=store, stages=stages)[-1].status == CACHED
