"""Evaluating a checkpoint by a suite: the datasets its tasks need -> register -> predict -> score -> report, gate.

Reproduces: what the suite says. Cost, score: in the head of each file of `configs/evaluate`.
Run: uio2 evaluate --gin_file=configs/evaluate/refexp.gin --checkpoint digits@1
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.finetune import find_datasets, model_of, search_folder, sizes
from uio2.evaluate.families import family_of
from uio2.evaluate.predict import asked_decoding
from uio2.evaluate.slices import check_slices
from uio2.evaluate.specs import (
    GATE,
    PREDICT,
    REPORT,
    SCORE,
    GateSpec,
    PredictSpec,
    ReportSpec,
    ScoreSpec,
)
from uio2.evaluate.suite import Suite
from uio2.model.config import ModelConfig
from uio2.pipeline.gin_config import GinConfig
from uio2.pipeline.operative import operative_gin
from uio2.pipeline.stage import Pipeline, Source, Stage, StageError, UsageError
from uio2.pipeline.store import Store
from uio2.tasks.families import TaskError, find_task
from uio2.tasks.mixtures import expand
from uio2.tasks.specs import REGISTER, RegisterSpec
from uio2.train import preflight
from uio2.train.model_choice import config_of
from uio2.train.specs import TrainSpec
from uio2.train.starting import Start, find_start

CONFIG = "configs/pipelines/evaluate.gin"
SUITES = "configs/evaluate"


@dataclasses.dataclass(frozen=True)
class Settings:
    """A suite, resolved for one checkpoint.

    Attributes:
      suite: which tasks, which checkpoint.
      register, predict, score, report, gate: the specs of its stages.
      model: `TrainSpec` says which model it is and which of its modalities are used.
      start: the checkpoint.
    """

    suite: Suite
    register: RegisterSpec
    predict: PredictSpec
    score: ScoreSpec
    report: ReportSpec
    gate: GateSpec
    model: TrainSpec
    start: Start

    @property
    def tokenizer(self) -> Path | None:
        """The file given for it, else the checkpoint's."""
        return Path(self.suite.tokenizer).expanduser() if self.suite.tokenizer else self.start.tokenizer

    def text(self) -> str:
        """Every value of it as a gin file."""
        stages = ("suite", "register", "predict", "score", "report", "gate")
        return operative_gin({name: getattr(self, name) for name in stages})


@dataclasses.dataclass(frozen=True)
class Ready:
    """A suite that was found able to run: what it says, its stages, and every value of it as a gin file."""

    found: Settings
    pipeline: Pipeline
    text: str


def suites() -> list[str]:
    """The suites of the repository, as `--gin_file` takes them."""
    return [f"{SUITES}/{path.name}" for path in sorted(search_folder(SUITES).glob("*.gin"))]


def settings(gin_files: Sequence[str], bindings: Sequence[str], *, store: Store) -> Settings:
    """Resolves a suite; touches no data.

    Args:
      gin_files: of the suite and, where the checkpoint does not say, of the model, after `CONFIG`.
      bindings: `X=Y`.
      store: where artifacts that it names are.

    Raises:
      UsageError: a value cannot be meant, or there is no task, no checkpoint or no model of that name.
    """
    config = GinConfig.parse([CONFIG, *gin_files], bindings)
    suite = config.spec(Suite)
    if not suite.tasks:
        raise UsageError(f"no TASKS: add --gin_file=SUITE, one of {', '.join(suites())}, or your own")
    if not suite.checkpoint:
        raise UsageError("no CHECKPOINT: add --checkpoint MODEL@VERSION, PIPELINE/STAGE, or a folder with a checkpoint")
    try:
        rates = expand(dict.fromkeys(suite.tasks, 1.0))
    except TaskError as error:
        raise UsageError(f"TASKS: {error}") from error
    start = find_start(suite.checkpoint, store=store)
    model = model_of(suite.model, start)
    own = config_of(model)
    fitted = sizes(own, bound=config.names.bound(RegisterSpec))
    lengths = {
        "TEXT_INPUTS": (suite.text_inputs, own.encoder_max_text_length),
        "TEXT_TARGETS": (suite.text_targets, own.decoder_max_text_length),
    }
    fitted += [f"{name}={most if given is None else min(given, most)}" for name, (given, most) in lengths.items()]
    fitted += [f"MODEL={model!r}", f"tasks.RegisterSpec.rates={rates!r}"]
    config = GinConfig.parse([CONFIG, *gin_files], [*bindings, *fitted])
    of_model = config.spec(TrainSpec)
    predict = dataclasses.replace(
        config.spec(PredictSpec), tasks=tuple(rates), model_config=_changes(of_model.model_config, start)
    )
    found = Settings(
        dataclasses.replace(config.spec(Suite), model=suite.model), config.spec(RegisterSpec), predict,
        config.spec(ScoreSpec), config.spec(ReportSpec), config.spec(GateSpec), of_model, start,
    )  # fmt: skip
    config.check_used(pipeline=suite.pipeline, own=CONFIG)
    return found


def _changes(config: Mapping[str, Any], start: Start) -> Mapping[str, Any]:
    """The config as the predict stage needs it: nothing where the checkpoint says the same of itself."""
    said = start.checkpoint.config()
    same = said is not None and said == ModelConfig.from_dict(config)
    return {} if same else config


def prepared(
    gin_files: Sequence[str], bindings: Sequence[str], *, store: Store, given: Mapping[str, str], processes: int = 1
) -> Ready:
    """Resolves a suite and checks that it can work.

    Args:
      gin_files, bindings, store: as for `settings`.
      given: folders of datasets by input name; the others are the newest of the store.
      processes: how many will predict.

    Raises:
      UsageError: all that is wrong, a line each.
    """
    found = settings(gin_files, bindings, store=store)
    datasets = find_datasets(found.register.rates, store=store, given=given)
    flight = preflight.Flight(
        register=found.register, train=found.model, datasets=datasets, start=found.start, tokenizer=found.tokenizer
    )
    problems = [line.replace("INITIAL_CHECKPOINT", "CHECKPOINT") for line in preflight.problems(flight)]
    preflight.refuse([*problems, *_own_problems(found, processes=processes)])
    return Ready(found, build(found, datasets=datasets), found.text())


def _own_problems(found: Settings, *, processes: int) -> list[str]:
    problems = []
    try:
        check_slices(found.score.slices)
    except StageError as error:
        problems.append(str(error))
    tasks = {name: family_of(name) for name in found.register.rates}
    for name, family in tasks.items():
        try:
            asked_decoding(found.predict, task=name, way=family.name, makes=find_task(name).makes)
        except StageError as error:
            problems.append(str(error))
    names = {*tasks, *(family.name for family in tasks.values())}
    for setting, keys in (("DECODING", found.predict.decoding), ("METRICS", found.score.metrics)):
        known = names | ({find_task(name).makes for name in tasks} if setting == "DECODING" else set())
        problems += [
            f"{setting} names {key!r}, which is no task of this suite and no way of scoring of one; it may name "
            f"{', '.join(sorted(filter(None, known)))}"
            for key in keys if key not in known
        ]  # fmt: skip
    if processes < 1:
        problems.append(f"--processes {processes}: expected 1 or more")
    return problems


def build(found: Settings, *, datasets: Mapping[str, Path]) -> Pipeline:
    """The pipeline.

    Args:
      found: the suite.
      datasets: by input name, each a TFDS directory or the folder of a dataset artifact.
    """
    data: dict[str, Stage | Source] = {name: Source(str(path)) for name, path in datasets.items()}
    words, checkpoint = Source(str(found.tokenizer)), Source(str(found.start.source))
    mixture = Stage("register", REGISTER, found.register, {**data, "tokenizer": words})
    predict = Stage(
        "predict", PREDICT, found.predict,
        {**data, "checkpoint": checkpoint, "mixture": mixture, "tokenizer": words},
    )  # fmt: skip
    score = Stage("score", SCORE, found.score, {**data, "predictions": predict})
    shown: dict[str, Stage | Source] = {**data, "score": score, "predictions": predict, "train": checkpoint}
    report = Stage("report", REPORT, found.report, shown)
    stages = [mixture, predict, score, report]
    if found.gate != GateSpec():
        stages.append(Stage("gate", GATE, found.gate, {"score": score}))
    return Pipeline(found.suite.pipeline, tuple(stages))
