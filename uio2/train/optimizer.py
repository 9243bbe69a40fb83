"""AdamW or Muon with warm-up, hold and cosine decay, from optax."""

from __future__ import annotations

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from uio2.train.specs import OptimizerSpec

# Updates of a kernel get the root mean square AdamW's have (Liu et al. 2025, arXiv:2502.16982), so that one learning
# rate means the same for either.
MUON_RMS = 0.2


def schedule(spec: OptimizerSpec, *, steps: int, peak: float | None = None) -> optax.Schedule:
    """Step -> learning rate: linear to the peak (`spec.learning_rate` if None), there for a while, cosine to a fraction
    of it at `steps`."""
    peak = spec.learning_rate if peak is None else peak
    warmup = min(spec.warmup_steps, max(steps - 1, 0))
    hold = int((steps - warmup) * spec.hold_fraction)
    decay = optax.cosine_decay_schedule(peak, max(steps - warmup - hold, 1), alpha=spec.final_fraction)
    rise = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rise, optax.constant_schedule(peak), decay], [warmup, warmup + hold])


def make_optimizer(spec: OptimizerSpec, *, steps: int, frozen: tuple[str, ...] = ()) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW or Muon; vectors (scales, biases, modality embeddings) do not decay.

    With Muon the token tables do not decay either.

    Args:
      spec: settings.
      steps: where the schedule ends.
      frozen: name prefixes ("image_vit/") of parameters that stay as they are: no update, no decay, no moments.
    """
    rule = optax.chain(optax.clip_by_global_norm(spec.clip_norm), _rule(spec, steps))

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if _name(path).startswith(frozen) else "trained", params
        )

    return optax.multi_transform({"trained": rule, "frozen": optax.set_to_zero()}, labels) if frozen else rule


def _rule(spec: OptimizerSpec, steps: int) -> optax.GradientTransformation:
    if spec.name == "adamw":
        return optax.adamw(
            schedule(spec, steps=steps), b1=spec.b1, b2=spec.b2, weight_decay=spec.weight_decay, mask=_is_matrix
        )
    return muon(
        schedule(spec, steps=steps),
        adam_learning_rate=schedule(spec, steps=steps, peak=spec.adam_learning_rate),
        adam_b1=spec.b1,
        adam_b2=spec.b2,
        weight_decay=spec.weight_decay,
        muon_weight_dimension_numbers=_kernels,
        consistent_rms=MUON_RMS,
    )


def _name(path: Any) -> str:
    """The parameter's name; NNX holds the array of each in a leaf `value`."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def _is_matrix(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _kernels(params: Any) -> Any:
    """[in, out] of every kernel, stacked layers one by one; None for tables and vectors, which are AdamW's."""

    def axes(path: Any, leaf: Any) -> MuonDimensionNumbers | None:
        is_kernel = _name(path).endswith("/kernel") and leaf.ndim in (2, 3)
        return MuonDimensionNumbers(reduction_axis=leaf.ndim - 2, output_axis=leaf.ndim - 1) if is_kernel else None

    return jax.tree_util.tree_map_with_path(axes, params)
