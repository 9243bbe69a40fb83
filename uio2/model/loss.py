"""Token loss with z-loss, summed over modalities (spec: MODEL.md section 8)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from uio2.model.unified_io import ModalityOutput


def multimodal_loss(
    outputs: Mapping[str, ModalityOutput], *, z_loss: float = 1e-4, tokens: Mapping[str, Array] | None = None
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Cross entropy + z_loss * logsumexp^2, each modality divided by its own token count.

    Args:
      outputs: by target modality.
      z_loss: weight of the squared log-normaliser; part of the loss and of its gradient.
      tokens: by modality what to divide by, where the batch is a part of a larger one; None: its own token counts.

    Returns:
      The summed loss, and metrics `<modality>/{loss,cross_ent_loss,z_loss,accuracy,nonpadding_fraction}`, `loss`.
    """
    total = jnp.float32(0.0)
    metrics: dict[str, Array] = {}
    for name, output in outputs.items():
        weights, logits = output.loss_mask, output.logits.astype(jnp.float32)
        count = jnp.maximum(weights.sum(), 1.0) if tokens is None else tokens[name]
        log_normaliser = jax.nn.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, output.targets[..., None], axis=-1)[..., 0]
        cross_entropy = ((log_normaliser - picked) * weights).sum() / count
        z = z_loss * (jnp.square(log_normaliser) * weights).sum() / count
        # Against the maximum, not argmax: XLA reduces pairs serially on CPU, half the cost of a small train step.
        right = ((picked >= logits.max(-1)) * weights).sum()
        total += cross_entropy + z
        metrics |= {
            f"{name}/loss": cross_entropy + z,
            f"{name}/cross_ent_loss": cross_entropy,
            f"{name}/z_loss": z,
            f"{name}/accuracy": right / count,
            f"{name}/nonpadding_fraction": weights.mean(),
        }
    return total, metrics | {"loss": total}
