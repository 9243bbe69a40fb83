"""Recipes of the training stages; light, nothing heavy is imported here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from uio2.pipeline.stage import StageError, StageType
from uio2.tasks.packing.spec import PackingSpec
from uio2.train.evaluation_spec import VALIDATION, EvaluationSpec
from uio2.train.model_choice import chosen, config_of

OPTIMIZERS = ("adamw", "muon", "lion", "adafactor")
PLANS = ("cosine", "linear")
FACTORS = ("constant", "linear_warmup", "rsqrt_decay", "rsqrt_normalized_decay", "linear_decay", "cosine_decay",
           "decay_every")  # fmt: skip


def check_counts(spec: Any, *fields: str) -> None:
    """Refuses counts below 1, by name."""
    for field in fields:
        if getattr(spec, field) < 1:
            raise StageError(f"{type(spec).__name__}.{field} is {getattr(spec, field)}; expected 1 or more")


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """A rule, its learning rate by step, and which parameters it is for.

    Attributes:
      name: `adamw`; `muon`: kernels by Muon (Jordan et al. 2024), everything else by AdamW; `lion` (Chen et al. 2023);
        or `adafactor`, as the published models were trained.
      learning_rate: the peak. Adafactor's is relative to the parameters' size unless `parameter_scale` is off; Lion's
        wants to be a third to a tenth of AdamW's.
      adam_learning_rate: with `muon`, the peak for what is not a kernel; None for the same.
      schedule: `cosine` or `linear`: up to the peak, a while at it, down to `final_fraction` at the last step; or
        factors of the original, ` * ` between them, for example `constant * linear_warmup * rsqrt_decay`.
      warmup_steps: steps from 0 to the peak.
      hold_fraction: share of the steps after the warm-up that stay at the peak before a planned decay begins.
      final_fraction: learning rate of the last step of a plan as a share of the peak.
      step_offset: with factors, the step the schedule begins at.
      decay_factor, steps_per_decay: of the factors `decay_every` and `linear_decay`.
      steps_per_cycle: of the factor `cosine_decay`.
      weight_decay: decoupled, on matrices only. None: 0.05, and none for `adafactor`, where it is not multiplied by the
        learning rate.
      clip_norm: largest global gradient norm; None for any.
      b1, b2: decay of the first and second moment; Adafactor's momentum is `b1`, 0 for none.
      decay_rate: Adafactor's exponent: second moments of step t keep 1 - (t + 1) ** -decay_rate.
      clip_update: Adafactor's largest root mean square of an update before the learning rate; None for any.
      parameter_scale: Adafactor multiplies the learning rate by the root mean square of the parameter.
      freeze: patterns (`*` for any part) of the names of parameters that stay as they are.
      multipliers: pattern of names -> factor of the learning rate.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    adam_learning_rate: float | None = None
    schedule: str = "cosine"
    warmup_steps: int = 100
    hold_fraction: float = 0.0
    final_fraction: float = 0.02
    step_offset: int = 0
    decay_factor: float = 0.5
    steps_per_decay: int = 20000
    steps_per_cycle: int = 100000
    weight_decay: float | None = None
    clip_norm: float | None = 1.0
    b1: float = 0.9
    b2: float = 0.98
    decay_rate: float = 0.8
    clip_update: float | None = 1.0
    parameter_scale: bool = True
    freeze: tuple[str, ...] = ()
    multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise StageError(f"OptimizerSpec.name is {self.name!r}; expected one of {', '.join(OPTIMIZERS)}")
        if self.adam_learning_rate is not None and self.name != "muon":
            raise StageError("OptimizerSpec.adam_learning_rate is for name 'muon'; set learning_rate")
        if isinstance(self.freeze, str):
            raise StageError(f"OptimizerSpec.freeze is {self.freeze!r}; expected a tuple of patterns")
        self._check_schedule()
        for field in ("learning_rate", "adam_learning_rate", "clip_norm", "clip_update"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise StageError(f"OptimizerSpec.{field} is {value}; expected more than 0")
        for field in ("hold_fraction", "b1", "b2"):
            if not 0 <= getattr(self, field) < 1:
                raise StageError(f"OptimizerSpec.{field} is {getattr(self, field)}; expected 0 or more and below 1")
        if self.weight_decay is not None and self.weight_decay < 0:
            raise StageError(f"OptimizerSpec.weight_decay is {self.weight_decay}; expected 0 or more")
        for pattern, factor in self.multipliers.items():
            if factor <= 0:
                raise StageError(
                    f"OptimizerSpec.multipliers[{pattern!r}] is {factor}; expected more than 0 (`freeze` keeps "
                    f"parameters as they are)"
                )

    def _check_schedule(self) -> None:
        if self.schedule not in PLANS and (unknown := set(self.factors) - set(FACTORS)):
            raise StageError(
                f"OptimizerSpec.schedule is {self.schedule!r}, of which {', '.join(sorted(unknown))} is unknown; "
                f"expected {' or '.join(PLANS)}, or a product (' * ') of {', '.join(FACTORS)}"
            )
        check_counts(self, "steps_per_decay", "steps_per_cycle")
        for field in ("warmup_steps", "step_offset"):
            if getattr(self, field) < 0:
                raise StageError(f"OptimizerSpec.{field} is {getattr(self, field)}; expected 0 or more")
        if self.step_offset and not self.factors:
            raise StageError(
                f"OptimizerSpec.step_offset is {self.step_offset} with schedule {self.schedule!r}, which ends at the "
                f"last step; expected 0, or a schedule of factors"
            )

    @property
    def factors(self) -> tuple[str, ...]:
        """The factors of the schedule, none for a plan."""
        return () if self.schedule in PLANS else tuple(part.strip() for part in self.schedule.split("*"))

    @property
    def decay(self) -> float:
        """Weight decay, with the default of the rule."""
        if self.weight_decay is not None:
            return self.weight_decay
        return 0.0 if self.name == "adafactor" else 0.05


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """What a training step does beside gradients and the optimizer's rule.

    Attributes:
      microbatches: parts of a batch whose gradients are computed one after another and averaged: less memory, the same
        step. A part is a strided share of the rows (packed: of the groups), so that no row leaves its device.
      sum_microbatches: as the original: each part divided by its own tokens, gradients summed and not averaged.
      skip_nonfinite: a step whose loss or gradient is NaN or infinite changes nothing and is counted.
      ema_decay: of a moving average of the trained parameters, kept beside them; None for none.
      ema_from: step after which averaging begins; until then the average is the parameters.
      publish_ema: whether the average is what training hands on; else the last parameters.
      norms: log the norms of the update and of the trained parameters too.
    """

    microbatches: int = 1
    sum_microbatches: bool = False
    skip_nonfinite: bool = True
    ema_decay: float | None = None
    ema_from: int = 0
    publish_ema: bool = True
    norms: bool = True

    def __post_init__(self) -> None:
        check_counts(self, "microbatches")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise StageError(f"StepSpec.ema_decay is {self.ema_decay}; expected between 0 and 1, or None")
        if self.ema_from < 0:
            raise StageError(f"StepSpec.ema_from is {self.ema_from}; expected 0 or more")


@dataclasses.dataclass(frozen=True)
class LoraSpec:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) beside frozen kernels: kernel + alpha / rank * down @ up.

    Attributes:
      layers: patterns (`*` for any part) of the names of dense layers, the parameter's without `/kernel`.
      rank: columns of `down` and rows of `up`.
      alpha: the adapters' weight, times the rank.
      dropout: chance of an input feature to be hidden from an adapter, drawn for each step, layer and feature. Kernel
        and adapter are one product, so a feature is hidden from all tokens of the batch and not token by token.
      train: patterns of the parameters that are trained as well.
    """

    layers: tuple[str, ...] = ("encoder/*", "decoder/*")
    rank: int = 8
    alpha: float = 16.0
    train: tuple[str, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_counts(self, "rank")
        for field in ("layers", "train"):
            if isinstance(getattr(self, field), str):
                raise StageError(f"LoraSpec.{field} is {getattr(self, field)!r}; expected a tuple of patterns")
        if not self.layers:
            raise StageError("LoraSpec.layers is empty; name layers, or leave TrainSpec.lora at None")
        if self.alpha <= 0:
            raise StageError(f"LoraSpec.alpha is {self.alpha}; expected more than 0")
        if not 0 <= self.dropout < 1:
            raise StageError(f"LoraSpec.dropout is {self.dropout}; expected 0 or more and below 1")


@dataclasses.dataclass(frozen=True)
class SavingSpec:
    """When checkpoints of a running training are saved, beside every `checkpoint_every` steps, and which are kept.

    Attributes:
      minutes: save when so many have passed since the last save; 0 for by step alone.
      keep_last: the newest so many; the last one is what a stopped training goes on from.
      keep_every: those at multiples of so many steps too, a multiple of `checkpoint_every`; 0 for none.
      keep_best: the best so many by `best_metric` too, as it stood in the last log row, of those at multiples of
        `checkpoint_every`; 0 for none. These and those of `keep_every` are published with the model.
      best_metric, best_is_least: a metric of the log rows, and whether less of it is better. One of the evaluation
        (`validation/...`) wants `checkpoint_every` to be a multiple of `EvaluationSpec.every`.
      publish: which parameters are the model that training hands on: the `last`, or the `best` by that metric among
        the kept checkpoints and the last.
    """

    minutes: float = 10.0
    keep_last: int = 2
    keep_every: int = 0
    keep_best: int = 0
    best_metric: str = "loss"
    best_is_least: bool = True
    publish: str = "last"

    def __post_init__(self) -> None:
        check_counts(self, "keep_last")
        if self.publish not in ("last", "best"):
            raise StageError(f"SavingSpec.publish is {self.publish!r}; expected 'last' or 'best'")
        if self.publish == "best" and not self.keep_best:
            raise StageError("SavingSpec.publish is 'best' with keep_best 0; set keep_best to 1 or more")
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
      model: preset; or a config: the path of a `config.json` (ours, or a published model's), held as its content, so
        that where it lies does not matter.
      model_overrides: fields of the preset to change; None for one leaves it.
      steps, batch_size, seed: the batch of a step depends on these, the packing and the mixture alone. With packing
        `batch_size` counts rows, each with several examples.
      packing: how examples share rows; the name of a strategy stands for its default settings.
      optimizer: its schedule ends at `steps`.
      step: microbatches, moving average, steps that are skipped.
      lora: adapters are trained and the model is frozen; None: the model is trained.
      z_loss: weight of the squared log-normaliser.
      checkpoint_every, log_every: steps.
      saving: checkpoints by time, and which are kept.
      alarms: when to stop or warn.
      evaluation: figures on the validation split, while training.
      model_config: derived: every field of the model, so that a changed preset is a changed recipe.
    """

    model: str = "digits"
    model_overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 1000
    batch_size: int = 64
    seed: int = 0
    packing: PackingSpec = dataclasses.field(default_factory=PackingSpec)
    optimizer: OptimizerSpec = OptimizerSpec()
    step: StepSpec = StepSpec()
    lora: LoraSpec | None = None
    z_loss: float = 1e-4
    checkpoint_every: int = 500
    log_every: int = 50
    saving: SavingSpec = SavingSpec()
    alarms: AlarmSpec = AlarmSpec()
    evaluation: EvaluationSpec = dataclasses.field(default_factory=EvaluationSpec)
    model_config: Mapping[str, Any] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.packing, str):
            object.__setattr__(self, "packing", PackingSpec(strategy=self.packing))
        parts = {"step": StepSpec, "saving": SavingSpec, "alarms": AlarmSpec, "evaluation": EvaluationSpec}
        for part, kind in parts.items():
            if not isinstance(getattr(self, part), kind):
                raise StageError(f"TrainSpec.{part} is {getattr(self, part)!r}; expected a {kind.__name__}")
        object.__setattr__(self, "model", chosen(self.model))
        object.__setattr__(self, "model_config", _model_fields(self.model, self.model_overrides))
        check_counts(self, "steps", "batch_size", "checkpoint_every", "log_every")
        if self.saving.keep_every % self.checkpoint_every:
            raise StageError(
                f"SavingSpec.keep_every is {self.saving.keep_every}; expected a multiple of TrainSpec.checkpoint_every "
                f"{self.checkpoint_every}"
            )
        self._check_evaluation()
        if self.packing.packs and self.batch_size % self.packing.groups:
            raise StageError(
                f"TrainSpec.batch_size is {self.batch_size} rows; expected a multiple of PackingSpec.groups "
                f"{self.packing.groups}"
            )
        split, what = (
            (self.packing.groups, "PackingSpec.groups") if self.packing.packs else (self.batch_size, "batch_size")
        )
        if split % self.step.microbatches:
            raise StageError(
                f"{what} is {split}; expected a multiple of StepSpec.microbatches {self.step.microbatches}"
            )

    def _check_evaluation(self) -> None:
        every, wanted = self.evaluation.every, self.saving.best_metric
        if every and every % self.log_every:
            raise StageError(
                f"EvaluationSpec.every is {every}; expected a multiple of TrainSpec.log_every {self.log_every}, as the "
                f"figures stand in the log row of their step"
            )
        if not self.saving.keep_best or not wanted.startswith(VALIDATION):
            return
        if not every:
            raise StageError(f"SavingSpec.best_metric is {wanted!r} without evaluation; set EvaluationSpec.every")
        if self.checkpoint_every % every:
            raise StageError(
                f"TrainSpec.checkpoint_every is {self.checkpoint_every}; to keep the best by {wanted!r} it must be a "
                f"multiple of EvaluationSpec.every {every}"
            )


def _model_fields(model: str, overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    changes = {name: value for name, value in overrides.items() if value is not None}
    return json.loads(config_of(model).with_overrides(changes).to_json())


_VOLATILE = ("*/_CHECKPOINT_METADATA", "*/commit_success.txt")  # orbax writes the time into these

VISION_TOWER = StageType(
    name="vision-tower",
    kind="checkpoint",
    spec=VisionTowerSpec,
    run="uio2.train.vision_tower:run",
    code_version="4",  # 3: operative_config.gin beside the tower; 4: adamw leaves stacked scales and biases alone
    volatile=_VOLATILE,
)
TRAIN = StageType(
    name="train",
    kind="checkpoint",
    spec=TrainSpec,
    run="uio2.train.train_stage:run",
    # 2: the vision transformer is called image_vit/; 3: muon reaches the kernels; 4: operative_config.gin is written;
    # 5: adamw leaves stacked scales and biases alone, losses by task and tokens in the history
    code_version="5",
    volatile=_VOLATILE,
)
