"""Gradients of a batch in parts: less memory at once, the same step.

Losses are divided by the number of tokens they are over, each modality by its own. A part divided by its own count
would weigh its tokens by how few they are; each is therefore divided by the mean count of all parts, and the mean over
the parts is the loss, and the gradient, of the whole batch. Counting takes no time: what does not lead to a count is
dead code in that pass (of `digits`: 163 floating-point operations where a gradient takes 812 million).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from uio2.pipeline.stage import StageError

if TYPE_CHECKING:
    from uio2.train.loop import Loop

Gradients = Callable[[list[jax.Array], Callable[[list[jax.Array]], Any], Any, Hashable], tuple[Any, dict[str, Any]]]


def gradients_of(loop: Loop) -> Gradients:
    """(trained leaves, leaves -> parameters, batch, static) -> (gradients of the leaves, metrics)."""

    def whole(
        leaves: list[jax.Array], rebuild: Callable[..., Any], batch: Any, static: Hashable, tokens: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        options = ({"static": static} if loop.static else {}) | ({"tokens": tokens} if tokens is not None else {})
        loss = functools.partial(loop.loss, **options)
        (_, metrics), found = jax.value_and_grad(lambda these: loss(rebuild(these), batch), has_aux=True)(leaves)
        return found, metrics

    count = loop.step.microbatches
    if count == 1:
        return whole

    def in_parts(
        leaves: list[jax.Array], rebuild: Callable[..., Any], batch: Any, static: Hashable
    ) -> tuple[Any, dict[str, Any]]:
        parts = split(batch, count)
        tokens = None
        if loop.tokens is not None and not loop.step.sum_microbatches:
            tokens = _mean_tokens(loop, rebuild(leaves), parts, static)
        one = functools.partial(whole, leaves, rebuild, static=static, tokens=tokens)
        shapes = jax.eval_shape(one, jax.tree.map(lambda part: part[0], parts))
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, jnp.promote_types(shape.dtype, jnp.float32)), shapes)
        sums, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, one(part)), None), zeros, parts)
        found, metrics = jax.tree.map(lambda sum_: sum_ / count, sums)
        found = sums[0] if loop.step.sum_microbatches else found
        return jax.tree.map(lambda gradient, leaf: gradient.astype(leaf.dtype), found, leaves), metrics

    return in_parts


def split(batch: Mapping[str, Any], count: int) -> dict[str, Any]:
    """`count` parts of a batch on a new leading axis; part i has rows i, i + count, ... (packed: groups).

    With strides each device's rows give it its share of every part. Works on host arrays too.

    Raises:
      StageError: rows that do not split.
    """
    packed = "packing/row" in batch
    units = batch["packing/row"].shape[0] if packed else next(iter(batch.values())).shape[0]
    if units % count:
        raise StageError(
            f"a batch of {units} {'groups (PackingSpec.groups)' if packed else 'rows'} in {count} microbatches; "
            f"expected a multiple"
        )

    def part(value: Any) -> Any:
        each = value.shape[0] // units
        apart = value.reshape(units // count, count, each, *value.shape[1:]).swapaxes(0, 1)
        return apart.reshape(count, units // count * each, *value.shape[1:])

    return {key: part(value) for key, value in batch.items()}


def _mean_tokens(loop: Loop, params: Any, parts: Any, static: Hashable) -> dict[str, jax.Array]:
    assert loop.tokens is not None
    options = {"static": static} if loop.static else {}
    counts = jax.lax.map(lambda part: loop.tokens(params, part, **options), parts)
    return {name: jnp.maximum(each.sum(), 1.0) / each.shape[0] for name, each in counts.items()}
