"""One training step: gradients of what is trained, the optimizer, a moving average, sums of the metrics.

The state is a plain tree that any checkpointer takes:
- `params`: the parameters;
- `optimizer`: the state of `Loop.optimizer`;
- `sums`: metrics summed since the last logged step, without skipped steps; `skipped` counts those;
- `steps`, `skipped`, `skipped_in_a_row`: int32 counters over the whole run;
- `ema`, with `StepSpec.ema_decay`: averages of the trained parameters, under the paths these have in `params`.

A skipped step keeps all of it but the counters, those of the optimizer included: a step's learning rate follows from
its number, whatever was skipped before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from uio2.model.sharding import rows_split
from uio2.train.microbatches import gradients_of

if TYPE_CHECKING:
    from uio2.train.loop import Batch, Loop

COUNTERS = ("steps", "skipped", "skipped_in_a_row")


def make_update(loop: Loop, params: Any, batch: Batch) -> tuple[Callable[..., Any], dict[str, np.ndarray]]:
    """The jitted step (state, batch, static) -> state, and zero sums of its metrics.

    The sums since the last logged step are part of the state, so that a checkpoint may fall on any step.

    Args:
      loop: what is trained and how.
      params: arrays, or their shapes.
      batch: an example of the host batches.
    """
    step = _Step(loop, params)
    static = loop.static(batch) if loop.static else None
    shapes = jax.eval_shape(lambda params, batch: step.metrics(params, batch, static), params, dict(batch))
    zeros = {key: np.zeros(shape.shape, shape.dtype) for key, shape in shapes.items()}
    return jax.jit(step.update, donate_argnums=0, static_argnums=2), zeros


def initial_state(loop: Loop, params: Any, *, sums: Mapping[str, Any]) -> dict[str, Any]:
    """The state before the first step; `sums` as `make_update` returns them.

    May run inside `jax.jit`, so that nothing of it ever is whole on one device.
    """
    state = {
        "params": params,
        "optimizer": loop.optimizer.init(params),
        "sums": dict(sums),
        **{name: np.zeros((), np.int32) for name in COUNTERS},
    }
    if loop.step.ema_decay is None:
        return state
    # A copy: the step gives its arguments' memory away, and no array twice.
    leaves, tree = jax.tree.flatten(params)
    mask = loop.trainable.mask(params)
    # The nodes optax has in the place of what is masked: they hold no arrays.
    nodes = [jnp.copy(leaf) if mine else optax.MaskedNode() for leaf, mine in zip(leaves, mask, strict=True)]
    return state | {"ema": jax.tree.unflatten(tree, nodes)}


def published(loop: Loop, state: Mapping[str, Any]) -> Any:
    """The parameters that training hands on: the averages where the recipe says so, else the last."""
    if loop.step.ema_decay is None or not loop.step.publish_ema:
        return state["params"]
    leaves, tree = jax.tree.flatten(state["params"])
    averages = iter(jax.tree.leaves(state["ema"]))
    mask = loop.trainable.mask(state["params"])
    return jax.tree.unflatten(tree, [next(averages) if mine else leaf for leaf, mine in zip(leaves, mask, strict=True)])


class _Step:
    """The step of a loop, for parameters of one structure."""

    def __init__(self, loop: Loop, params: Any) -> None:
        self._loop, self._spec = loop, loop.step
        self._mask = loop.trainable.mask(params)
        self._gradients = gradients_of(loop)

    def metrics(self, params: Any, batch: Any, static: Hashable) -> dict[str, jax.Array]:
        """What is summed over steps, of one step; only its shapes are asked for."""
        found, metrics = self._differentiate(params, batch, static, steps=jnp.int32(0))
        zero = jnp.float32(0.0)
        return (
            metrics
            | {"gradient_norm": optax.global_norm(found)}
            | ({"skipped": zero} if self._spec.skip_nonfinite else {})
            | ({"update_norm": zero, "parameter_norm": zero} if self._spec.norms else {})
        )

    def update(self, state: Any, batch: Any, static: Hashable) -> Any:
        """The state after a step."""
        found, metrics = self._differentiate(state["params"], batch, static, steps=state["steps"])
        metrics |= {"gradient_norm": optax.global_norm(found)}
        held = {key: value for key, value in state.items() if key not in COUNTERS}
        if not self._spec.skip_nonfinite:
            return self._move(held, state["steps"], found, metrics) | self._count(state, jnp.int32(0))
        fine = jnp.isfinite(metrics["gradient_norm"]) & jnp.isfinite(metrics["loss"])
        metrics |= {"skipped": jnp.float32(0.0)}
        # A branch, not a choice between two results: the update is what it is without it, bit for bit, and in place.
        new = jax.lax.cond(
            fine, lambda: self._move(held, state["steps"], found, metrics), lambda: self._hold(held, found)
        )
        return new | self._count(state, 1 - fine.astype(jnp.int32))

    def _move(
        self, held: Any, steps: jax.Array, found: list[jax.Array], metrics: dict[str, jax.Array]
    ) -> dict[str, Any]:
        """What is held from step to step, after the optimizer's update."""
        params, spec = held["params"], self._spec
        leaves, tree = jax.tree.flatten(params)
        updates, optimizer = self._loop.optimizer.update(self._full(found, params), held["optimizer"], params)
        moves = self._select(jax.tree.leaves(updates))
        trained = optax.apply_updates(self._select(leaves), moves)
        if spec.norms:
            metrics = metrics | {
                "update_norm": optax.global_norm(moves), "parameter_norm": optax.global_norm(trained)
            }  # fmt: skip
        new = {
            "params": jax.tree.unflatten(tree, self._merge(trained, leaves)),
            "optimizer": optimizer,
            "sums": {key: held["sums"][key] + value for key, value in metrics.items()},
        }
        return new if spec.ema_decay is None else new | {"ema": self._average(held, steps, trained)}

    def _hold(self, held: Any, found: list[jax.Array]) -> dict[str, Any]:
        """The same without an update: only counters go on, the optimizer's too."""
        _, ticked = self._loop.optimizer.update(self._full(found, held["params"]), held["optimizer"], held["params"])
        optimizer = jax.tree.map(
            lambda fresh, old: fresh if jnp.issubdtype(fresh.dtype, jnp.integer) else old, ticked, held["optimizer"]
        )
        return held | {"optimizer": optimizer, "sums": held["sums"] | {"skipped": held["sums"]["skipped"] + 1}}

    def _count(self, state: Any, missed: jax.Array) -> dict[str, jax.Array]:
        return {
            "steps": state["steps"] + 1,
            "skipped": state["skipped"] + missed,
            "skipped_in_a_row": (state["skipped_in_a_row"] + 1) * missed,
        }

    def _full(self, found: list[jax.Array], params: Any) -> Any:
        """Gradients as a tree like the parameters, zeros for what is frozen."""
        leaves, tree = jax.tree.flatten(params)
        return jax.tree.unflatten(tree, self._merge(found, [jnp.zeros_like(leaf) for leaf in leaves]))

    def _differentiate(
        self, params: Any, batch: Any, static: Hashable, *, steps: jax.Array
    ) -> tuple[list[jax.Array], dict[str, jax.Array]]:
        """Gradients of the trained leaves alone: those of frozen ones are never computed."""
        leaves, tree = jax.tree.flatten(params)

        def rebuild(trained: list[jax.Array]) -> Any:
            values = jax.tree.unflatten(tree, self._merge(trained, leaves))
            return values if self._loop.noise is None else self._loop.noise(values, steps)

        with rows_split(self._loop.mesh):
            return self._gradients(self._select(leaves), rebuild, batch, static)

    def _select(self, leaves: list[Any]) -> list[Any]:
        return [leaf for leaf, trained in zip(leaves, self._mask, strict=True) if trained]

    def _merge(self, trained: list[Any], others: list[Any]) -> list[Any]:
        values = iter(trained)
        return [next(values) if mine else other for mine, other in zip(self._mask, others, strict=True)]

    def _average(self, held: Any, steps: jax.Array, trained: list[jax.Array]) -> Any:
        decay = jnp.where(steps < self._spec.ema_from, 0.0, self._spec.ema_decay or 0.0)
        averages, tree = jax.tree.flatten(held["ema"])
        return jax.tree.unflatten(tree, [
            (decay * average + (1.0 - decay) * value).astype(value.dtype)
            for average, value in zip(averages, trained, strict=True)
        ])  # fmt: skip
