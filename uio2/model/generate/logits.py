"""What happens to logits between the model and the choice of a token: pure functions on the last axis.

Formulas and order are those of the spec (MODEL.md section 11): guidance, repetition penalty, constraints, then top-p
(by the probabilities before the temperature), top-k, temperature. Removed logits become `REMOVED`, small enough for
probability zero and finite, so that sums over beams stay finite.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from uio2.model.generate.settings import Locations

REMOVED = -1e7
# The original's numbers: what keeps a temperature of 0 from dividing by it, and its two for location tokens.
TEMPERATURE_EPSILON = 1e-7
NON_LOCATION_PENALTY, LOCATION_SHARE = 1e4, 0.5

Scalar = float | Array


def guide(
    conditional: Float[Array, "b v"], unconditional: Float[Array, "b v"], *, alpha: Scalar
) -> Float[Array, "b v"]:
    """Classifier-free guidance: (1 + alpha) log p(conditional) - alpha log p(unconditional); not normalised."""
    return (1.0 + alpha) * jax.nn.log_softmax(conditional) - alpha * jax.nn.log_softmax(unconditional)


def top_p(logits: Float[Array, "b v"], *, p: Scalar) -> Float[Array, "b v"]:
    """Keeps the likeliest tokens up to and with the one whose cumulative probability passes `p`."""
    falling = -jnp.sort(-logits, axis=-1)
    last_kept = jnp.where(_nucleus(jax.nn.softmax(falling), p=p), falling, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(logits >= last_kept, logits, REMOVED)


def top_k(
    logits: Float[Array, "b v"], *, k: int, p: Scalar | None = None
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """The k largest logits and their ids, largest first; with `p`, after `top_p` (one selection does for both)."""
    values, ids = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    if p is None:
        return values, ids
    probabilities = jnp.exp(values - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
    return jnp.where(_nucleus(probabilities, p=p), values, REMOVED), ids


def _nucleus(falling: Float[Array, "b k"], *, p: Scalar) -> Bool[Array, "b k"]:
    """Of probabilities in falling order: those that come before `p` is passed."""
    return jnp.cumsum(falling, axis=-1) - falling < p


def heat(logits: Float[Array, "b v"], *, temperature: Scalar) -> Float[Array, "b v"]:
    return logits / (temperature + TEMPERATURE_EPSILON)


def penalise_repetition(
    logits: Float[Array, "b v"], tokens: Int[Array, "b t"], *, step: Int[Array, ""] | int, penalty: Scalar
) -> Float[Array, "b v"]:
    """Divides positive and multiplies other logits of every token among the first `step` of `tokens`."""
    rows = jnp.arange(logits.shape[0])[:, None]
    before = jnp.broadcast_to(jnp.arange(tokens.shape[1]) < step, tokens.shape)
    seen = jnp.zeros(logits.shape, bool).at[rows, tokens].max(before)
    return jnp.where(seen, _penalised(logits, penalty), logits)


def penalise_last(
    logits: Float[Array, "b v"], last: Int[Array, " b"], *, penalty: Scalar
) -> Float[Array, "b v"]:  # fmt: skip
    """The original's repetition penalty: of the single previous token (the start token at first)."""
    return jnp.where(jnp.arange(logits.shape[1]) == last[:, None], _penalised(logits, penalty), logits)


def _penalised(logits: Array, penalty: Scalar) -> Array:
    return jnp.where(logits > 0, logits / penalty, logits * penalty)


def keep_range(logits: Float[Array, "b v"], *, first: int, end: int) -> Float[Array, "b v"]:
    """Only ids of first <= id < end stay possible."""
    ids = jnp.arange(logits.shape[-1])
    return jnp.where((ids >= first) & (ids < end), logits, REMOVED)


def complete_locations(
    logits: Float[Array, "b v"], tokens: Int[Array, "b t"], *, step: Int[Array, ""] | int, locations: Locations
) -> Float[Array, "b v"]:
    """Inside a group of location tokens only location ids can follow."""
    produced = (tokens >= locations.first) & (tokens < locations.end) & (jnp.arange(tokens.shape[1]) < step)
    inside = produced.sum(axis=-1, keepdims=True) % locations.group != 0
    return jnp.where(inside, keep_range(logits, first=locations.first, end=locations.end), logits)


def prefer_locations(logits: Float[Array, "b v"], *, locations: Locations) -> Float[Array, "b v"]:
    """The original's `non_loc_select`: log-probabilities, all but locations lowered where locations hold most."""
    log_probabilities = jax.nn.log_softmax(logits)
    ids = jnp.arange(logits.shape[-1])
    is_location = (ids >= locations.first) & (ids < locations.end)
    share = jnp.where(is_location, jnp.exp(log_probabilities), 0.0).sum(axis=-1, keepdims=True)
    lowered = (share > LOCATION_SHARE) & ~is_location
    return log_probabilities - jnp.where(lowered, NON_LOCATION_PENALTY, 0.0)
