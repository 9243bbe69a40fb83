"""The optimizer a recipe asks for: Adafactor as the original, or AdamW, Muon or Lion from optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from uio2.pipeline.stage import StageError
from uio2.train.optim.adafactor import adafactor
from uio2.train.optim.names import Trainable, check_patterns, is_stacked, matches, parameter_name, parameter_names
from uio2.train.optim.schedules import schedule
from uio2.train.specs import OptimizerSpec

__all__ = ["check_parameters", "make_optimizer", "schedule"]

# Updates of a kernel get the root mean square AdamW's have (Liu et al. 2025, arXiv:2502.16982), so that one learning
# rate means the same for either.
MUON_RMS = 0.2


def make_optimizer(
    spec: OptimizerSpec, *, steps: int, trainable: Trainable | None = None
) -> optax.GradientTransformation:
    """Clip by global norm, then the rule; vectors (scales, biases, modality embeddings) do not decay.

    With Muon the token tables do not decay either.

    Args:
      spec: settings.
      steps: where the schedule ends.
      trainable: what is trained; None for all but `spec.freeze`. Frozen parameters stay as they are: no update, no
        decay, no moments.

    Raises:
      StageError: from its `init`, a pattern of `spec` that fits no parameter.
    """
    trainable = Trainable(frozen=spec.freeze) if trainable is None else trainable
    rule = _rule(spec, steps)
    if spec.clip_norm is not None:
        rule = optax.chain(optax.clip_by_global_norm(spec.clip_norm), rule)

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "trained" if trainable(parameter_name(path)) else "frozen", params
        )

    if trainable != Trainable():
        rule = optax.multi_transform({"trained": rule, "frozen": optax.set_to_zero()}, labels)

    def init(params: Any) -> Any:
        check_parameters(spec, parameter_names(params))
        return rule.init(params)

    return optax.GradientTransformationExtraArgs(init, rule.update)


def check_parameters(spec: OptimizerSpec, names: tuple[str, ...]) -> None:
    """Refuses patterns of the settings that fit no parameter, and two multipliers for one.

    Raises:
      StageError: naming the pattern and the nearest parameters.
    """
    check_patterns(spec.freeze, names, field="OptimizerSpec.freeze")
    check_patterns(spec.multipliers, names, field="OptimizerSpec.multipliers")
    for name in names:
        if len(found := [pattern for pattern in spec.multipliers if matches(name, [pattern])]) > 1:
            raise StageError(f"OptimizerSpec.multipliers: {' and '.join(found)} both fit {name}; expected one")


def _rule(spec: OptimizerSpec, steps: int) -> optax.GradientTransformation:
    rate = schedule(spec, steps=steps)
    if spec.name == "adafactor":
        return adafactor(spec, rate=rate, multiplier=_multiplier(spec))
    rule = _optax_rule(spec, rate, steps)
    return optax.chain(rule, _scale_by_name(_multiplier(spec))) if spec.multipliers else rule


def _optax_rule(spec: OptimizerSpec, rate: optax.Schedule, steps: int) -> optax.GradientTransformation:
    if spec.name == "adamw":
        return optax.adamw(rate, b1=spec.b1, b2=spec.b2, weight_decay=spec.decay, mask=_is_layer_matrix)
    if spec.name == "lion":
        return optax.lion(rate, b1=spec.b1, b2=spec.b2, weight_decay=spec.decay, mask=_is_layer_matrix)
    return muon(
        rate,
        adam_learning_rate=schedule(spec, steps=steps, peak=spec.adam_learning_rate),
        adam_b1=spec.b1,
        adam_b2=spec.b2,
        weight_decay=spec.decay,
        muon_weight_dimension_numbers=_kernels,
        consistent_rms=MUON_RMS,
    )


def _multiplier(spec: OptimizerSpec) -> Callable[[str], float]:
    def multiplier(name: str) -> float:
        return next((factor for pattern, factor in spec.multipliers.items() if matches(name, [pattern])), 1.0)

    return multiplier


def _scale_by_name(factor: Callable[[str], float]) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: jax.tree_util.tree_map_with_path(
            lambda path, update: update * factor(parameter_name(path)), updates
        )
    )


def _is_layer_matrix(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf.ndim - is_stacked(parameter_name(path)) > 1, params)


def _kernels(params: Any) -> Any:
    """[in, out] of every kernel, stacked layers one by one; None for tables and vectors, which are AdamW's."""

    def axes(path: Any, leaf: Any) -> MuonDimensionNumbers | None:
        is_kernel = parameter_name(path).endswith("/kernel") and leaf.ndim in (2, 3)
        return MuonDimensionNumbers(reduction_axis=leaf.ndim - 2, output_axis=leaf.ndim - 1) if is_kernel else None

    return jax.tree_util.tree_map_with_path(axes, params)
