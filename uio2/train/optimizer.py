"""AdamW with warm-up and cosine decay, from optax."""

from __future__ import annotations

from typing import Any

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


def make_optimizer(spec: OptimizerSpec, *, steps: int, frozen: tuple[str, ...] = ()) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW; vectors (scales, biases, modality embeddings) do not decay.

    Args:
      spec: settings.
      steps: where the schedule ends.
      frozen: name prefixes ("image_vit/") of parameters that stay as they are: no update, no decay, no moments.
    """
    adamw = optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(
            schedule(spec, steps=steps),
            b1=spec.b1,
            b2=spec.b2,
            weight_decay=spec.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )

    def labels(params: Any) -> Any:
        def label(path: Any, _: Any) -> str:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return "frozen" if name.startswith(frozen) else "trained"

        return jax.tree_util.tree_map_with_path(label, params)

    return optax.multi_transform({"trained": adamw, "frozen": optax.set_to_zero()}, labels) if frozen else adamw
