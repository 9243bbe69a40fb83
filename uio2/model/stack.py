"""Equal layers, stacked on a leading axis and scanned: compile time does not grow with depth."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx


class Stack[Layer: nnx.Module](nnx.Module):
    """`length` copies of one module; every parameter has a leading layer axis.

    Args:
      make: builds one layer from `nnx.Rngs`.
      length: number of layers.
      unroll: layers per scan step; 0 means all.
    """

    def __init__(self, make: Callable[[nnx.Rngs], Layer], *, length: int, unroll: int, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=length)
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(rngs: nnx.Rngs) -> Layer:
            return make(rngs)

        self.layers: Layer = create(rngs)
        self.length = length
        self.unroll = unroll or length

    def scan(self, apply: Callable[[Any, Any], Any], carry: Any, *, collect: bool = False) -> tuple[Any, Any]:
        """Runs `carry = apply(layer, carry)` over the layers.

        Returns:
          The last carry and, with `collect`, every layer's carry stacked on a leading axis (else None).
        """
        graph, state = nnx.split(self.layers)

        def body(carry: Any, layer_state: Any) -> tuple[Any, Any]:
            carry = apply(nnx.merge(graph, layer_state), carry)
            return carry, (carry if collect else None)

        return jax.lax.scan(body, carry, state, unroll=self.unroll)

    def unstacked(self) -> Iterator[Layer]:
        """The layers one by one, for decoding, where each keeps its own cache."""
        graph, state = nnx.split(self.layers)
        for i in range(self.length):
            yield nnx.merge(graph, jax.tree.map(operator.itemgetter(i), state))
