"""Greedy decoding and temperature sampling: one while loop that ends when every row has ended.

Draws are stateless: row i of a batch draws its token of step s with key(seed) folded with the row's id and with s, so
what a row samples does not depend on its neighbours or on how many there are (up to the last bits of its logits, which
may decide between tokens of nearly equal chance).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from uio2.model.generate import logits as on
from uio2.model.generate.cached import CachedDecoder, Caches
from uio2.model.generate.rules import Rules
from uio2.model.targets import START


class Sampled(NamedTuple):
    """The loop's state: `step` steps are done; tokens and logprobs are 0 from there on and after the end of a row."""

    step: Int[Array, ""]
    last: Int[Array, " b"]
    ended: Bool[Array, " b"]
    tokens: Int[Array, "b t"]
    logprobs: Float[Array, "b t"]
    caches: Caches


def sample(decoder: CachedDecoder, rules: Rules, *, keys: Array) -> Sampled:
    """Decodes `decoder.length` tokens, or until every row has produced the target's end marker.

    Args:
      decoder: over the rows; with guidance over twice as many, the unconditional ones last.
      rules: the settings.
      keys: one random key per row.
    """
    rows, guided = keys.shape[0], rules.uses("guidance")

    def body(state: Sampled) -> Sampled:
        fed = jnp.tile(state.last, 2) if guided else state.last
        logits, caches = decoder.step(fed[:, None], caches=state.caches, index=state.step)
        scores = logits[:, 0]
        if guided:
            scores = on.guide(scores[:rows], scores[rows:], alpha=rules.numbers["guidance"])
        changed = rules.apply(scores, state.tokens, step=state.step)
        steps = jnp.broadcast_to(state.step, (rows,))
        token = rules.choose(changed, jax.vmap(jax.random.fold_in)(keys, steps))
        token = jnp.where(state.ended, 0, token)
        reported = rules.filtered(changed) if rules.switches.compat else scores
        logprob = jnp.where(state.ended, 0.0, log_probability(reported, token))
        ended = state.ended if rules.target.eos is None else state.ended | (token == rules.target.eos)
        return Sampled(
            state.step + 1, token, ended,
            jax.lax.dynamic_update_slice_in_dim(state.tokens, token[:, None], state.step, axis=1),
            jax.lax.dynamic_update_slice_in_dim(state.logprobs, logprob[:, None], state.step, axis=1),
            caches,
        )  # fmt: skip

    def more(state: Sampled) -> Array:
        return (state.step < decoder.length) & ~jnp.all(state.ended)

    shape = (rows, decoder.length)
    start = Sampled(
        jnp.int32(0), jnp.full(rows, START, jnp.int32), jnp.zeros(rows, bool),
        jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32), decoder.empty(),
    )  # fmt: skip
    return jax.lax.while_loop(more, body, start)


def log_probability(logits: Float[Array, "b v"], tokens: Int[Array, " b"]) -> Float[Array, " b"]:
    """Of one token per row, under the softmax of its logits."""
    picked = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)
