"""Learning rate by step: a planned rise, hold and fall, or a product of factors as the original writes it.

A plan ends at the last step. A product (`constant * linear_warmup * rsqrt_decay`) knows no end; it is computed in
float32 from left to right and never below 1e-8, so that its values are those of the original bit for bit (inside a
compiled step XLA may round the last one otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from uio2.train.specs import OptimizerSpec

FLOOR = 1e-8

# (value so far, step as float32, settings, peak) -> value
Factor = Callable[[jax.Array, jax.Array, OptimizerSpec, float], jax.Array]


def schedule(spec: OptimizerSpec, *, steps: int, peak: float | None = None) -> optax.Schedule:
    """Step -> learning rate.

    Args:
      spec: settings.
      steps: where a plan ends.
      peak: in place of `spec.learning_rate`.
    """
    peak = spec.learning_rate if peak is None else peak
    if spec.factors:
        return _product(spec, peak=peak)
    warmup = min(spec.warmup_steps, max(steps - 1, 0))
    hold = int((steps - warmup) * spec.hold_fraction)
    length = max(steps - warmup - hold, 1)
    if spec.schedule == "linear":
        fall = optax.linear_schedule(peak, peak * spec.final_fraction, length)
    else:
        fall = optax.cosine_decay_schedule(peak, length, alpha=spec.final_fraction)
    rise = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rise, optax.constant_schedule(peak), fall], [warmup, warmup + hold])


def _product(spec: OptimizerSpec, *, peak: float) -> optax.Schedule:
    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        at, value = jnp.asarray(step + spec.step_offset, jnp.float32), jnp.float32(1.0)
        for factor in spec.factors:
            value = _FACTORS[factor](value, at, spec, peak)
        return jnp.maximum(value, FLOOR)

    return rate


def _warmup(value: jax.Array, at: jax.Array, spec: OptimizerSpec, peak: float) -> jax.Array:
    del peak
    return value * jnp.minimum(1.0, at / spec.warmup_steps) if spec.warmup_steps else value


def _root(at: jax.Array, spec: OptimizerSpec) -> jax.Array:
    return jnp.sqrt(jnp.maximum(at, max(spec.warmup_steps, 1)))


def _linear(value: jax.Array, at: jax.Array, spec: OptimizerSpec, peak: float) -> jax.Array:
    """Up to the peak, then down by `decay_factor` of it each step: the original's, which counts no steps."""
    warmup = max(spec.warmup_steps, 1)
    return value * (peak * jnp.minimum(at / warmup, 1.0 + spec.decay_factor * (warmup - at)))


def _cosine(value: jax.Array, at: jax.Array, spec: OptimizerSpec, peak: float) -> jax.Array:
    del peak
    progress = jnp.maximum(0.0, (at - spec.warmup_steps) / float(spec.steps_per_cycle))
    return value * jnp.maximum(0.0, 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0))))


_FACTORS: Mapping[str, Factor] = {
    "constant": lambda value, at, spec, peak: value * peak,
    "linear_warmup": _warmup,
    "rsqrt_decay": lambda value, at, spec, peak: value / _root(at, spec),
    "rsqrt_normalized_decay": lambda value, at, spec, peak: (
        value * jnp.sqrt(jnp.float32(max(spec.warmup_steps, 1))) / _root(at, spec)
    ),
    "linear_decay": _linear,
    "cosine_decay": _cosine,
    "decay_every": lambda value, at, spec, peak: value * spec.decay_factor ** (at // spec.steps_per_decay),
}
