"""Greedy text decoding: one jitted loop with static per-layer caches and early exit.

Cross-attention keys and values are computed once from the encoder; each step feeds one token, so a step
costs one token's work however long the text is (spec: MODEL.md section 11).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from uio2.model.attention import attend
from uio2.model.parts import ConfigError
from uio2.model.transformer import DecoderBlock, Segment
from uio2.model.unified_io import Batch, UnifiedIO2

EOS = 1
BOS = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GenerateOutput:
    """tokens [b, t] int32, EOS-terminated then 0; logprobs [b, t] float32, 0 after EOS."""

    tokens: Int[Array, "b t"]
    logprobs: Float[Array, "b t"]


def generate(model: UnifiedIO2, batch: Mapping[str, ArrayLike], *, max_length: int) -> GenerateOutput:
    """Decodes text greedily.

    Args:
      model: any model with a text target.
      batch: the `inputs/...` part of a batch; targets are ignored.
      max_length: tokens to decode at most; compiled once per value.

    Raises:
      ConfigError: `max_length` is beyond the model's decoder positions.
    """
    limit = model.config.decoder_max_text_length
    if not 0 < max_length <= limit:
        raise ConfigError(f"max_length is {max_length}; expected 1..{limit} (decoder_max_text_length)")
    graph, state = nnx.split(model)
    inputs = {k: jnp.asarray(v) for k, v in batch.items() if k.startswith("inputs/")}
    return _generate(graph, state, inputs, max_length)


def _decoder_step(
    block: DecoderBlock, x: Array, *, cache: tuple[Array, Array], cross: tuple[Array, Array], cross_mask: Array,
    rotary: Array | None, step: Array,
) -> tuple[Array, tuple[Array, Array]]:  # fmt: skip
    """One token [b, 1, d] through one layer; returns the updated cache."""
    y = block.self_norm(x)
    k, v = block.self_attention.keys_values(y, rotary)
    keys = jax.lax.dynamic_update_slice_in_dim(cache[0], k, step, axis=1)
    values = jax.lax.dynamic_update_slice_in_dim(cache[1], v, step, axis=1)
    seen = jnp.broadcast_to(jnp.arange(keys.shape[1]) <= step, (x.shape[0], 1, keys.shape[1]))
    x = x + block.self_attention.project(attend(block.self_attention.queries(y, rotary), keys, values, mask=seen))
    q = block.cross_attention.queries(block.cross_norm(x), rotary)
    x = x + block.cross_attention.project(attend(q, *cross, mask=cross_mask))
    return x + block.mlp(block.mlp_norm(x)), (keys, values)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _generate(graph: Any, state: Any, inputs: Batch, max_length: int) -> GenerateOutput:
    model: UnifiedIO2 = nnx.merge(graph, state)
    source: Segment = model.source(inputs)
    encoded = model.encoder(source)
    blocks = list(model.decoder.blocks.unstacked())
    cross = [b.cross_attention.keys_values(encoded, source.rotary) for b in blocks]
    rows, config = encoded.shape[0], model.config
    empty = jnp.zeros((rows, max_length, config.num_heads, config.head_dim), encoded.dtype)
    ones = jnp.ones((rows, 1), jnp.int32)
    cross_mask = source.mask[:, None, :]

    def body(carry: Any) -> Any:
        step, token, finished, tokens, logprobs, caches = carry
        row = model.target_segment(token, mask=ones, pos_ids=ones * step, segment_ids=None)
        x, updated = row.embed, []
        for block, cache, source_kv in zip(blocks, caches, cross, strict=True):
            x, cache = _decoder_step(
                block, x, cache=cache, cross=source_kv, cross_mask=cross_mask, rotary=row.rotary, step=step
            )
            updated.append(cache)
        logits = model.logits(model.decoder.norm(x))[:, 0]
        best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        logprob = jnp.max(jax.nn.log_softmax(logits), axis=-1)
        best, logprob = jnp.where(finished, 0, best), jnp.where(finished, 0.0, logprob)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, best[:, None], step, axis=1)
        logprobs = jax.lax.dynamic_update_slice_in_dim(logprobs, logprob[:, None], step, axis=1)
        return step + 1, best[:, None], finished | (best == EOS), tokens, logprobs, updated

    def more(carry: Any) -> Array:
        return (carry[0] < max_length) & ~jnp.all(carry[2])

    start = (
        jnp.int32(0),
        jnp.full((rows, 1), BOS, jnp.int32),
        jnp.zeros(rows, bool),
        jnp.zeros((rows, max_length), jnp.int32),
        jnp.zeros((rows, max_length), jnp.float32),
        [(empty, empty) for _ in blocks],
    )
    *_, tokens, logprobs, _ = jax.lax.while_loop(more, body, start)
    return GenerateOutput(tokens, logprobs)
