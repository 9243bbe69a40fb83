"""Equal layers, stacked on a leading axis and scanned: compile time does not grow with depth."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

from uio2.model.sharding import pin_rows

# By name: what the backward pass may keep of a layer; None keeps everything (no recomputation). `dots` keeps the
# projections and not attention's logits, which are the largest arrays of a layer: they are products with batch axes.
_KEEP: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Stack[Layer: nnx.Module](nnx.Module):
    """`length` copies of one module; every parameter has a leading layer axis.

    Args:
      make: builds one layer from `nnx.Rngs`.
      length: number of layers.
      unroll: layers per scan step; 0 means all.
      remat: what the backward pass computes again, `none`, `full` or `dots` (see `ModelConfig.remat`).
    """

    def __init__(
        self, make: Callable[[nnx.Rngs], Layer], *, length: int, unroll: int, remat: str = "none", rngs: nnx.Rngs
    ):
        @nnx.split_rngs(splits=length)
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(rngs: nnx.Rngs) -> Layer:
            return make(rngs)

        self.layers: Layer = create(rngs)
        self.length = length
        self.unroll = unroll or length
        self.remat = remat

    def scan(self, apply: Callable[[Any, Any], Any], carry: Any, *, collect: bool = False) -> tuple[Any, Any]:
        """Runs `carry = apply(layer, carry)` over the layers; the carry's arrays have rows first.

        Returns:
          The last carry and, with `collect`, every layer's carry stacked on a leading axis (else None).
        """
        graph, state = nnx.split(self.layers)

        def body(carry: Any, layer_state: Any) -> tuple[Any, Any]:
            carry = apply(nnx.merge(graph, layer_state), pin_rows(carry))
            return carry, (carry if collect else None)

        if self.remat != "none":
            # Forward and backward are loops of their own unless all is unrolled: only then could XLA merge the
            # recomputation with what it repeats.
            body = jax.checkpoint(body, policy=_KEEP[self.remat], prevent_cse=self.unroll >= self.length)
        return jax.lax.scan(body, carry, state, unroll=self.unroll)

    def unstacked(self) -> Iterator[Layer]:
        """The layers one by one, for decoding, where each keeps its own cache."""
        graph, state = nnx.split(self.layers)
        for i in range(self.length):
            yield nnx.merge(graph, jax.tree.map(operator.itemgetter(i), state))
