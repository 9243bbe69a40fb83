"""Recipes of the evaluation stages; light, nothing heavy is imported here."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uio2.pipeline.stage import StageError, StageType
from uio2.tasks.specs import FIRST_TASKS

# What can be said of decoding an answer, by its modality.
SETTINGS = {
    "text": ("max_length", "num_beams", "length_penalty", "repetition_penalty", "temperature", "top_k", "top_p",
             "locations"),
    "image": ("temperature", "top_k", "top_p", "guidance", "repetition_penalty"),
    "audio": ("temperature", "top_k", "top_p", "guidance", "repetition_penalty"),
}  # fmt: skip
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclasses.dataclass(frozen=True)
class PredictSpec:
    """What is predicted, and how it is decoded: texts greedily, pictures and sound drawn, unless `decoding` says else.

    Attributes:
      tasks: task names; those the mixture does not hold are left out and counted in the stats.
      split: dataset split.
      batch_size: examples decoded together.
      max_examples: of each task, the first this many in the order of the stored data; 0 takes all.
      max_length: longest answer in tokens, end marker included; boxes take fewer (`Family.max_length`).
      shard_size: examples of one prediction file; a killed run resumes after the last finished one.
      seed: of the draws.
      decoding: task, way of scoring or modality -> settings of `SETTINGS[modality]`; the more special name wins,
        setting by setting. With `num_beams` or `temperature` texts are searched for or drawn; `locations` is how many
        location tokens belong together (4 for boxes, 2 for points) and keeps such groups whole.
      model_config: of the model, where the checkpoint has none (T5X) or more modalities than are used; {} for its own.
    """

    tasks: tuple[str, ...] = FIRST_TASKS
    split: str = "validation"
    batch_size: int = 64
    max_examples: int = 0
    max_length: int = 32
    shard_size: int = 512
    seed: int = 0
    decoding: Mapping[str, Mapping[str, float | int]] = dataclasses.field(default_factory=dict)
    model_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _positive(self, "batch_size", "max_length", "shard_size")
        _not_negative(self, "max_examples", "seed")
        if not self.tasks:
            raise StageError("PredictSpec.tasks is empty; expected at least one task name")
        known = sorted(set().union(*SETTINGS.values()))
        for name, settings in self.decoding.items():
            for key, value in settings.items():
                if key not in known or isinstance(value, str):
                    raise StageError(
                        f"PredictSpec.decoding[{name!r}] has {key} = {value!r}; expected numbers for {', '.join(known)}"
                    )


@dataclasses.dataclass(frozen=True)
class ScoreSpec:
    """Which figures there are, and how sure each is.

    Attributes:
      resamples: bootstrap draws behind each interval.
      confidence: share of them inside the interval.
      seed: other number, other draws.
      baseline_split: split that the baselines are learned from.
      max_baseline_examples: stored examples read for them, the first this many; 0 reads all.
      metrics: task or way of scoring -> figures in place of the way's usual ones (docs/evaluation.md lists them).
      slices: kinds of slices (`uio2.evaluate.slices`) whose figures are made too, where a task has them; None for all.
      max_slices: slices of one kind, the largest; the rest shares one.
      features: of made pictures: "" for the small extractor of `uio2.evaluate.features`, which is not comparable to
        published figures, `package.module:function`, or a file of `jax.export`.
      text_features: `package.module:function` from texts to the same space; "" for no figure of texts and pictures.
      features_size: side of the square pictures that the extractor takes, pixels.
      features_sha256: derived: of the file.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    baseline_split: str = "train"
    max_baseline_examples: int = 0
    metrics: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    slices: tuple[str, ...] | None = None
    max_slices: int = 10
    features: str = ""
    text_features: str = ""
    features_size: int = 64
    features_sha256: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        content = Path(self.features).read_bytes() if self.features and Path(self.features).is_file() else None
        digest = hashlib.sha256(content).hexdigest() if content is not None else ""
        object.__setattr__(self, "features_sha256", digest)
        _positive(self, "resamples", "max_slices", "features_size")
        _not_negative(self, "max_baseline_examples")
        if not 0 < self.confidence < 1:
            raise StageError(f"ScoreSpec.confidence is {self.confidence}; expected a number between 0 and 1, as 0.95")


@dataclasses.dataclass(frozen=True)
class ReportSpec:
    """What the page shows.

    Attributes:
      title: heading; empty takes the pipeline's name.
      num_examples: sample pictures of each task, and half as many best and worst each.
      max_image_side: pictures are shrunk to this side in pixels; smaller ones are kept as they are.
      max_classes: rows of the confusion table; rarer classes share the last row.
    """

    title: str = ""
    num_examples: int = 8
    max_image_side: int = 320
    max_classes: int = 12

    def __post_init__(self) -> None:
        _positive(self, "num_examples", "max_image_side", "max_classes")


@dataclasses.dataclass(frozen=True)
class GateSpec:
    """What figures must reach for an evaluation to count as passed; the conditions are those of `PromoteSpec`.

    Attributes:
      min_value: metric key -> the figure must be at least this.
      max_value: metric key -> the figure, an error, must be at most this.
      min_margin: metric key -> the worse end of the interval must be better than the baseline by at least this.
    """

    min_value: Mapping[str, float] = dataclasses.field(default_factory=dict)
    max_value: Mapping[str, float] = dataclasses.field(default_factory=dict)
    min_margin: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PromoteSpec:
    """What a model must reach to be registered.

    Attributes:
      model_name: name in the model registry.
      min_value: metric key -> the figure must be at least this.
      max_value: metric key -> the figure, an error, must be at most this.
      min_margin: metric key -> the worse end of the interval must be better than the baseline by at least this.
      improve: metric key that must be significantly better than the reigning model's (input `champion`); "" asks
        for no improvement. On the same examples a paired test says so, otherwise intervals that do not touch.
      significance: largest p of that test; the intervals are those of the scores.
      max_fall: metric key -> it may fall this far below the reigning model's figure, no further. Like `improve`, it is
        not asked when there is none.
    """

    model_name: str = "uio2"
    min_value: Mapping[str, float] = dataclasses.field(default_factory=dict)
    max_value: Mapping[str, float] = dataclasses.field(default_factory=dict)
    min_margin: Mapping[str, float] = dataclasses.field(default_factory=dict)
    improve: str = ""
    significance: float = 0.05
    max_fall: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.model_name):
            raise StageError(
                f"PromoteSpec.model_name is {self.model_name!r}; expected the name of a registered model in letters, "
                "digits and _ . + -, as 'uio2-digits'"
            )
        if not 0 < self.significance < 1:
            raise StageError(f"PromoteSpec.significance is {self.significance}; expected a number as 0.05")


def _positive(spec: object, *fields: str) -> None:
    for field in fields:
        if getattr(spec, field) < 1:
            raise StageError(f"{type(spec).__name__}.{field} is {getattr(spec, field)}; expected 1 or more")


def _not_negative(spec: object, *fields: str) -> None:
    for field in fields:
        if getattr(spec, field) < 0:
            raise StageError(f"{type(spec).__name__}.{field} is {getattr(spec, field)}; expected 0 (all) or more")


PREDICT = StageType(
    name="predict",
    kind="predictions",
    spec=PredictSpec,
    run="uio2.evaluate.predict:run",
    code_version="3",  # 2: rows hold truth and media; 3: further settings of decoding in the headers
)
SCORE = StageType(
    name="score",
    kind="report",
    spec=ScoreSpec,
    run="uio2.evaluate.score:run",
    code_version="3",  # 2: intervals are drawn by metric, no longer by task and metric; 3: slices
)
REPORT = StageType(
    name="report",
    kind="report",
    spec=ReportSpec,
    run="uio2.evaluate.report:run",
    code_version="2",  # 2: slices come from `score`
)
GATE = StageType(name="gate", kind="report", spec=GateSpec, run="uio2.evaluate.gate:run")
PROMOTE = StageType(
    name="promote",
    kind="model",
    spec=PromoteSpec,
    run="uio2.evaluate.promote:run",
    code_version="3",  # 2: says what was compared with which champion; 3: says it without conditions on it too
    registers_model=True,
)
