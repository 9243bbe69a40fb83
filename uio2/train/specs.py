"""Recipes of the training stages; light, nothing heavy is imported here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from uio2.model.config import ModelConfig
from uio2.pipeline.stage import StageError, StageType
from uio2.tasks.packing.spec import PackingSpec


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """AdamW or Muon under a linear warm-up, a while at the peak and a cosine decay.

    Attributes:
      name: `adamw`; or `muon`: kernels by Muon (Jordan et al. 2024), everything else by AdamW.
      learning_rate: the peak.
      adam_learning_rate: with `muon`, the peak for what is not a kernel; None for the same.
      warmup_steps: steps from 0 to the peak.
      hold_fraction: share of the steps after the warm-up that stay at the peak before the decay begins.
      final_fraction: learning rate of the last step as a share of the peak.
      weight_decay: decoupled; on matrices only.
      clip_norm: largest global gradient norm.
      b1, b2: decay of AdamW's first and second moment.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    adam_learning_rate: float | None = None
    warmup_steps: int = 100
    hold_fraction: float = 0.0
    final_fraction: float = 0.02
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.98

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "muon"):
            raise StageError(f"OptimizerSpec.name is {self.name!r}; expected adamw or muon")
        if self.adam_learning_rate is not None and self.name != "muon":
            raise StageError("OptimizerSpec.adam_learning_rate is for name 'muon'; set learning_rate")
        for field in ("learning_rate", "adam_learning_rate"):
            rate = getattr(self, field)
            if rate is not None and rate <= 0:
                raise StageError(f"OptimizerSpec.{field} is {rate}; expected more than 0")
        if self.warmup_steps < 0:
            raise StageError(f"OptimizerSpec.warmup_steps is {self.warmup_steps}; expected 0 or more")
        if not 0 <= self.hold_fraction < 1:
            raise StageError(f"OptimizerSpec.hold_fraction is {self.hold_fraction}; expected 0 or more and below 1")


@dataclasses.dataclass(frozen=True)
class SavingSpec:
    """When checkpoints of a running training are saved, beside every `checkpoint_every` steps, and which are kept.

    Attributes:
      minutes: save when so many have passed since the last save; 0 for by step alone.
      keep_last: the newest so many; the last one is what a stopped training goes on from.
      keep_every: those at multiples of so many steps too; 0 for none.
      keep_best: the best so many by `best_metric` too, as it stood in the last log row; 0 for none.
      best_metric, best_is_least: a metric of the log rows, and whether less of it is better.
    """

    minutes: float = 10.0
    keep_last: int = 2
    keep_every: int = 0
    keep_best: int = 0
    best_metric: str = "loss"
    best_is_least: bool = True

    def __post_init__(self) -> None:
        check_counts(self, "keep_last")
        for field in ("minutes", "keep_every", "keep_best"):
            if getattr(self, field) < 0:
                raise StageError(f"SavingSpec.{field} is {getattr(self, field)}; expected 0 or more")


@dataclasses.dataclass(frozen=True)
class AlarmSpec:
    """When a training that goes wrong is stopped, or somebody is told.

    Attributes:
      nonfinite_steps: stop after so many steps in a row whose loss or gradient is not finite.
      spike_factor: warn of a step whose loss is so many times the median of the last 100 steps; 0 for never.
    """

    nonfinite_steps: int = 10
    spike_factor: float = 3.0

    def __post_init__(self) -> None:
        check_counts(self, "nonfinite_steps")
        if self.spike_factor and self.spike_factor <= 1:
            raise StageError(f"AlarmSpec.spike_factor is {self.spike_factor}; expected more than 1, or 0 for no alarm")


@dataclasses.dataclass(frozen=True)
class VisionTowerSpec:
    """Dense pre-training of the vision transformer: which class covers each patch, and where its box ends.

    Attributes:
      model: preset whose vision transformer is trained.
      model_overrides: fields of the preset to change, for example `{"image_size": [128, 128]}`.
      steps, batch_size, seed: as everywhere.
      optimizer: its schedule ends at `steps`.
      foreground_weight: weight of the class loss on patches that hold an object.
      box_weight: weight of the box loss.
      colour_weight: weight of the loss on each patch's mean colour.
      checkpoint_every, log_every: steps.
      model_config: derived: every field of the model, so that a changed preset is a changed recipe.
    """

    model: str = "digits"
    model_overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 1000
    batch_size: int = 32
    seed: int = 0
    optimizer: OptimizerSpec = OptimizerSpec(learning_rate=4e-3)
    foreground_weight: float = 5.0
    box_weight: float = 1.0
    colour_weight: float = 1.0
    checkpoint_every: int = 500
    log_every: int = 50
    model_config: Mapping[str, Any] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model_config", _model_fields(self.model, self.model_overrides))
        check_counts(self, "steps", "batch_size", "checkpoint_every", "log_every")


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """Training on a mixture.

    Attributes:
      model: preset.
      model_overrides: fields of the preset to change.
      steps, batch_size, seed: the batch of a step depends on these, the packing and the mixture alone. With packing
        `batch_size` counts rows, each with several examples.
      packing: how examples share rows; the name of a strategy stands for its default settings.
      optimizer: its schedule ends at `steps`.
      z_loss: weight of the squared log-normaliser.
      checkpoint_every, log_every: steps.
      saving: checkpoints by time, and which are kept.
      alarms: when to stop or warn.
      model_config: derived: every field of the model, so that a changed preset is a changed recipe.
    """

    model: str = "digits"
    model_overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 1000
    batch_size: int = 64
    seed: int = 0
    packing: PackingSpec = dataclasses.field(default_factory=PackingSpec)
    optimizer: OptimizerSpec = OptimizerSpec()
    z_loss: float = 1e-4
    checkpoint_every: int = 500
    log_every: int = 50
    saving: SavingSpec = SavingSpec()
    alarms: AlarmSpec = AlarmSpec()
    model_config: Mapping[str, Any] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.packing, str):
            object.__setattr__(self, "packing", PackingSpec(strategy=self.packing))
        object.__setattr__(self, "model_config", _model_fields(self.model, self.model_overrides))
        check_counts(self, "steps", "batch_size", "checkpoint_every", "log_every")
        if self.packing.packs and self.batch_size % self.packing.groups:
            raise StageError(
                f"TrainSpec.batch_size is {self.batch_size} rows; expected a multiple of PackingSpec.groups "
                f"{self.packing.groups}"
            )


def _model_fields(preset: str, overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    return json.loads(ModelConfig.preset(preset).with_overrides(overrides).to_json())


def check_counts(spec: Any, *fields: str) -> None:
    """Refuses counts below 1, by name."""
    for field in fields:
        if getattr(spec, field) < 1:
            raise StageError(f"{type(spec).__name__}.{field} is {getattr(spec, field)}; expected 1 or more")


_VOLATILE = ("*/_CHECKPOINT_METADATA", "*/commit_success.txt")  # orbax writes the time into these

VISION_TOWER = StageType(
    name="vision-tower",
    kind="checkpoint",
    spec=VisionTowerSpec,
    run="uio2.train.vision_tower:run",
    code_version="2",
    volatile=_VOLATILE,
)
TRAIN = StageType(
    name="train",
    kind="checkpoint",
    spec=TrainSpec,
    run="uio2.train.train_stage:run",
    code_version="3",  # 2: the vision transformer is called image_vit/; 3: muon reaches the kernels
    volatile=_VOLATILE,
)
