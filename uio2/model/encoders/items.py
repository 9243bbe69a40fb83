"""Items (an image, a spectrogram, a frame of history) of a batch, and running an encoder on the real ones alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from uio2.model.index_map import IndexMap


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Patches:
    """values float32 [i, n, p], mask int32 [i, n] (1 on real patches), pos_ids int32 [i, n]; i items, n patches."""

    values: Float[Array, "i n p"]
    mask: Int[Array, "i n"]
    pos_ids: Int[Array, "i n"]

    @classmethod
    def of(cls, batch: Mapping[str, Array], prefix: str) -> Patches:
        """`<prefix>/{input,mask,pos_ids}` with all leading axes but patches and values made one."""
        values, mask, pos_ids = (jnp.asarray(batch[f"{prefix}/{key}"]) for key in ("input", "mask", "pos_ids"))
        n, p = values.shape[-2:]
        return cls(values.reshape(-1, n, p), mask.reshape(-1, n), pos_ids.reshape(-1, n))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Encoded:
    """tokens [i, ...] per item; kept bool [i], false on items that had no slot (their tokens are zero)."""

    tokens: Array
    kept: Bool[Array, " i"]


def encode_real(
    encode: Callable[[Any], Array], items: Any, *, present: Bool[Array, " i"], slots: int | None
) -> Encoded:
    """`encode(items)`, on `slots` items at most: the present ones in order.

    Args:
      encode: arrays with a leading axis of items -> one such array.
      items: the arrays.
      present: items that are really there.
      slots: how many items are encoded; None: all of them, absent ones too. With 0 nothing runs.
    """
    if slots is None or slots >= present.shape[0]:
        return Encoded(encode(items), jnp.ones(present.shape, bool))
    if not slots:
        one = jax.tree.map(lambda x: x[:1], items)
        shape = jax.eval_shape(encode, one)
        return Encoded(jnp.zeros((*present.shape, *shape.shape[1:]), shape.dtype), jnp.zeros(present.shape, bool))
    index_map = IndexMap.of(present[None], slots=slots)
    gathered = jax.tree.map(lambda x: index_map.gather(x[None])[0], items)
    return Encoded(index_map.scatter(encode(gathered)[None])[0], index_map.kept[0])


def frozen[M: nnx.Module](module: M) -> M:
    """The module with gradients stopped at its parameters: nothing inside is then traced for gradients."""
    graph, params = nnx.split(module)
    return nnx.merge(graph, jax.lax.stop_gradient(params))
