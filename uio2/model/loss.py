"""Token loss with z-loss, summed over modalities (spec: MODEL.md section 8)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from uio2.model.unified_io import ModalityOutput


def multimodal_loss(
    outputs: Mapping[str, ModalityOutput], *, z_loss: float = 1e-4, tokens: Mapping[str, Array] | None = None,
    group: Int[Array, " b"] | None = None, groups: int = 0,
) -> tuple[Float[Array, ""], dict[str, Array]]:  # fmt: skip
    """Cross entropy + z_loss * logsumexp^2, each modality divided by its own token count.

    Args:
      outputs: by target modality.
      z_loss: weight of the squared log-normaliser; part of the loss and of its gradient.
      tokens: by modality what to divide by, where the batch is a part of a larger one; None: its own token counts.
      group: of each example, below `groups`, for sums by group; None: none.

    Returns:
      The summed loss, and metrics `<modality>/{loss,cross_ent_loss,z_loss,accuracy,nonpadding_fraction}`, `loss`;
      with `group` also `group/{cross_ent_loss,accuracy,tokens}`, float32 [groups]: sums over the tokens of a group's
      examples, undivided.
    """
    total = jnp.float32(0.0)
    metrics: dict[str, Array] = {}
    rows = {key: jnp.float32(0.0) for key in ("cross_ent_loss", "accuracy", "tokens")}
    for name, output in outputs.items():
        weights, logits = output.loss_mask, output.logits.astype(jnp.float32)
        count = jnp.maximum(weights.sum(), 1.0) if tokens is None else tokens[name]
        log_normaliser = jax.nn.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, output.targets[..., None], axis=-1)[..., 0]
        each = (log_normaliser - picked) * weights
        cross_entropy = each.sum() / count
        z = z_loss * (jnp.square(log_normaliser) * weights).sum() / count
        # Against the maximum, not argmax: XLA reduces pairs serially on CPU, half the cost of a small train step.
        hits = (picked >= logits.max(-1)) * weights
        right = hits.sum()
        total += cross_entropy + z
        metrics |= {
            f"{name}/loss": cross_entropy + z,
            f"{name}/cross_ent_loss": cross_entropy,
            f"{name}/z_loss": z,
            f"{name}/accuracy": right / count,
            f"{name}/nonpadding_fraction": weights.mean(),
        }
        if group is not None:
            found = {"cross_ent_loss": each, "accuracy": hits, "tokens": weights}
            rows = {key: rows[key] + jax.lax.stop_gradient(value).sum(axis=1) for key, value in found.items()}
    if group is not None:
        # A product with the few groups there are, not a scatter: that one is serial on CPU and sorts on TPU.
        member = (group[:, None] == jnp.arange(groups)).astype(jnp.float32)
        metrics |= {f"group/{key}": value @ member for key, value in rows.items()}
    return total, metrics | {"loss": total}
