"""One training step: gradients, the optimizer, and sums of the metrics since the last logged step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

if TYPE_CHECKING:
    from uio2.train.loop import Batch, Loop


def make_update(loop: Loop, params: Any, batch: Batch) -> tuple[Callable[..., Any], dict[str, np.ndarray]]:
    """The jitted step (state, batch, static) -> state, and zero sums of its metrics.

    The sums since the last logged step are part of the state, so that a checkpoint may fall on any step.
    """

    def gradients(params: Any, batch: Any, static: Hashable) -> tuple[Any, dict[str, jax.Array]]:
        loss = functools.partial(loop.loss, static=static) if loop.static else loop.loss
        (_, metrics), found = jax.value_and_grad(loss, has_aux=True)(params, batch)
        return found, metrics | {"gradient_norm": optax.global_norm(found)}

    def update(state: Any, batch: Any, static: Hashable) -> Any:
        found, metrics = gradients(state["params"], batch, static)
        updates, optimizer = loop.optimizer.update(found, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        sums = {k: state["sums"][k] + v for k, v in metrics.items()}
        return {"params": params, "optimizer": optimizer, "sums": sums}

    static = loop.static(batch) if loop.static else None
    _, metrics = jax.eval_shape(functools.partial(gradients, static=static), params, dict(batch))
    return jax.jit(update, donate_argnums=0, static_argnums=2), {
        k: np.zeros(v.shape, v.dtype) for k, v in metrics.items()
    }
