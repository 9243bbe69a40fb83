"""AdamW with warm-up and cosine decay, from optax."""

from __future__ import annotations

import jax
import optax

from uio2.train.specs import OptimizerSpec


def schedule(spec: OptimizerSpec, *, steps: int) -> optax.Schedule:
    """Step -> learning rate: linear to the peak, cosine to `final_fraction` of it at `steps`."""
    warmup = min(spec.warmup_steps, max(steps - 1, 0))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else spec.learning_rate,
        peak_value=spec.learning_rate,
        warmup_steps=warmup,
        decay_steps=steps,
        end_value=spec.learning_rate * spec.final_fraction,
    )


def make_optimizer(spec: OptimizerSpec, *, steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW; vectors (scales, biases, modality embeddings) do not decay."""
    return optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(
            schedule(spec, steps=steps),
            b1=spec.b1,
            b2=spec.b2,
            weight_decay=spec.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )
