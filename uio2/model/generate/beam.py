"""Beam search in one while loop: 2k candidates per step, finished beams kept, caches follow their beams.

A beam that produces the end marker leaves the search with its score; the loop ends when in every row no beam still
running can beat the worst kept one. What runs out of length counts as finished there, so that a long answer that was
cut competes with short complete ones by its score.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from uio2.model.generate import logits as on
from uio2.model.generate.cached import CachedDecoder, Caches, of_beams
from uio2.model.generate.rules import Rules
from uio2.model.targets import START

BREVITY_OFFSET = 5.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beams:
    """k sequences of each of b rows, best first.

    Attributes:
      tokens: int32 [b, k, t], ending in the end marker and then 0, unless cut at the length.
      scores: float32 [b, k], what the search maximises: the sum of log-probabilities after penalty and constraints,
        divided by ((5 + length) / 6) ** length_penalty; -inf where there are fewer than k sequences.
      logprobs: float32 [b, k, t], log-probabilities of the tokens under the model alone. With `compat` what the
        original reports: the growth of the score of each place in the ranking, whichever beam held it before.
    """

    tokens: Int[Array, "b k t"]
    scores: Float[Array, "b k"]
    logprobs: Float[Array, "b k t"]

    def pick(self, order: Int[Array, "b n"]) -> Beams:
        """The sequences at the given places."""
        return Beams(_take(self.tokens, order), _take(self.scores, order), _take(self.logprobs, order))


class _Search(NamedTuple):
    step: Int[Array, ""]
    live: Beams
    done: Beams
    caches: Caches


def beam_search(decoder: CachedDecoder, rules: Rules) -> tuple[Beams, Int[Array, ""]]:
    """The best `decoder.beams` sequences of each row, and the steps it took."""
    length = decoder.length

    def body(state: _Search) -> _Search:
        candidates, parents, caches = _expand(decoder, rules, state)
        ends = _ends(rules, candidates, state.step)
        ended = jnp.where(ends, candidates.scores / _brevity(rules, state.step + 1), -jnp.inf)
        done = _best(state.done, dataclasses.replace(candidates, scores=ended), count=decoder.beams)
        _, order = jax.lax.top_k(jnp.where(ends, -jnp.inf, candidates.scores), decoder.beams)
        live = candidates.pick(order)
        if rules.switches.compat:
            before = jnp.where(state.step > 0, state.live.scores, 0.0)
            grown = jax.lax.dynamic_update_index_in_dim(state.live.logprobs, live.scores - before, state.step, axis=2)
            live = dataclasses.replace(live, logprobs=grown)
        return _Search(state.step + 1, live, done, of_beams(caches, _take(parents, order)))

    def more(state: _Search) -> Array:
        # Scores only fall, and a longer sequence is divided by no less: this is the best a running beam can reach.
        reachable = state.live.scores[:, 0] / _brevity(rules, length)
        return (state.step < length) & jnp.any(reachable > state.done.scores[:, -1])

    end = jax.lax.while_loop(more, body, _start(decoder))
    cut = dataclasses.replace(end.live, scores=end.live.scores / _brevity(rules, length))
    beams = _best(end.done, cut, count=decoder.beams)
    impossible = beams.scores < on.REMOVED / 2
    return dataclasses.replace(beams, scores=jnp.where(impossible, -jnp.inf, beams.scores)), end.step


def _start(decoder: CachedDecoder) -> _Search:
    shape = (decoder.rows, decoder.beams)
    tokens, logprobs = jnp.zeros((*shape, decoder.length), jnp.int32), jnp.zeros((*shape, decoder.length))
    # All beams are equal at first: only one of each row may produce candidates.
    first = jnp.full(shape, on.REMOVED).at[:, 0].set(0.0)
    none = Beams(tokens, jnp.full(shape, -jnp.inf), logprobs)
    return _Search(jnp.int32(0), Beams(tokens, first, logprobs), none, decoder.empty())


def _expand(decoder: CachedDecoder, rules: Rules, state: _Search) -> tuple[Beams, Int[Array, "b 2*k"], Caches]:
    """The 2k best continuations of each row, the beams they continue, and the caches of those beams.

    2k, because at most k of them can be ends (one per beam): k that go on are always among them.
    """
    live, step = state.live, state.step
    rows, beams, length = live.tokens.shape
    last = jnp.where(step > 0, live.tokens[:, :, jnp.maximum(step - 1, 0)], START)
    logits, caches = decoder.step(last, caches=state.caches, index=step)
    flat = logits.reshape(rows * beams, -1)
    changed = rules.apply(flat, live.tokens.reshape(rows * beams, length), step=step)
    total = live.scores[:, :, None] + jax.nn.log_softmax(changed).reshape(logits.shape)
    scores, chosen = jax.lax.top_k(total.reshape(rows, -1), 2 * beams)
    parents, tokens = chosen // logits.shape[-1], (chosen % logits.shape[-1]).astype(jnp.int32)
    logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits).reshape(rows, -1), chosen, axis=1)
    candidates = Beams(
        jax.lax.dynamic_update_index_in_dim(_take(live.tokens, parents), tokens, step, axis=2),
        scores,
        jax.lax.dynamic_update_index_in_dim(_take(live.logprobs, parents), logprobs, step, axis=2),
    )
    return candidates, parents, caches


def _ends(rules: Rules, candidates: Beams, step: Int[Array, ""]) -> Bool[Array, "b n"]:
    """Which sequences just produced the end marker; none in the original, whose marker no token equals."""
    if rules.switches.compat or rules.target.eos is None:
        return jnp.zeros(candidates.scores.shape, bool)
    return candidates.tokens[:, :, step] == rules.target.eos


def _best(first: Beams, second: Beams, *, count: int) -> Beams:
    """The `count` best of two sets, in falling order of score; of equal ones those of the first set."""
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), first, second)
    return both.pick(jax.lax.top_k(both.scores, count)[1])


def _brevity(rules: Rules, length: int | Int[Array, ""]) -> Float[Array, ""]:
    """What a score of that length is divided by (Wu et al. 2016, equation 14)."""
    return ((BREVITY_OFFSET + length) / (BREVITY_OFFSET + 1.0)) ** rules.numbers["length_penalty"]


def _take(values: Array, order: Int[Array, "b n"]) -> Array:
    """Along the axis of beams."""
    return jnp.take_along_axis(values, order.reshape(*order.shape, *(1,) * (values.ndim - 2)), axis=1)
