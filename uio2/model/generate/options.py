"""Which of several answers does the model find likeliest? Scored, not generated (spec: MODEL.md section 11).

The encoder runs once per row. The options of a row stand one after another as segments of one decoder row that do not
see each other, so one pass of the decoder scores them all; logits are made for one option at a time.
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

from uio2.model.budget import item_budget
from uio2.model.parts import ConfigError
from uio2.model.unified_io import Batch, UnifiedIO2

NORMALISATIONS = ("none", "length", "compat")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OptionScores:
    """Of b rows with o options of up to t tokens.

    Attributes:
      scores: float32 [b, o], higher is likelier: the sum of the tokens' log-probabilities, normalised as asked; -inf
        for an option without tokens.
      best: int32 [b], the option of highest score.
      logprobs: float32 [b, o, t], of each token; 0 on padding.
    """

    scores: Float[Array, "b o"]
    best: Int[Array, " b"]
    logprobs: Float[Array, "b o t"]


def score_options(
    model: UnifiedIO2, batch: Mapping[str, ArrayLike], options: ArrayLike, *, normalise: str = "none"
) -> OptionScores:
    """Scores answer options.

    Args:
      model: any model with a text target.
      batch: the `inputs/...` part of a batch of b rows; targets are ignored.
      options: int [b, o, t] token ids, each option ending in EOS and padded with 0.
      normalise: `none`; `length`: each option's score by its own number of tokens, so that long answers are not at a
        disadvantage; `compat`: every score by the number of tokens of all options of the whole batch, as the original
        does, which changes no choice.

    Raises:
      ConfigError: shapes that do not fit or an unknown `normalise`.
    """
    if normalise not in NORMALISATIONS:
        raise ConfigError(f"normalise is {normalise!r}; expected one of {', '.join(NORMALISATIONS)}")
    if "text" not in model.config.target_modalities:
        raise ConfigError(f"options are text; this model's target_modalities are {model.config.target_modalities}")
    ids = jnp.asarray(options, jnp.int32)
    limit = model.config.decoder_max_text_length
    if ids.ndim != 3 or not 0 < ids.shape[2] <= limit:
        raise ConfigError(f"options have shape {ids.shape}; expected [b, o, t] with t in 1..{limit}")
    inputs = {key: jnp.asarray(value) for key, value in batch.items() if key.startswith("inputs/")}
    rows = next(iter(inputs.values())).shape[0]
    if ids.shape[0] != rows:
        raise ConfigError(f"options have {ids.shape[0]} rows; the batch has {rows}")
    graph, state = nnx.split(model)
    return _score(graph, state, inputs, ids, normalise, tuple(item_budget(inputs, config=model.config).items()))


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _score(
    graph: Any, state: Any, inputs: Batch, options: Array, normalise: str, budget: tuple[tuple[str, int], ...]
) -> OptionScores:
    model: UnifiedIO2 = nnx.merge(graph, state)
    real = options > 0
    logprobs = jnp.where(real, _log_probabilities(model, inputs, options, dict(budget)), 0.0)
    count, sums = real.sum(axis=-1), logprobs.sum(axis=-1)
    divisors = {"none": jnp.ones_like(count), "length": count, "compat": count.sum()}
    scores = jnp.where(count > 0, sums / jnp.maximum(divisors[normalise], 1), -jnp.inf)
    return OptionScores(scores, jnp.argmax(scores, axis=-1).astype(jnp.int32), logprobs)


def _log_probabilities(
    model: UnifiedIO2, inputs: Batch, options: Int[Array, "b o t"], budget: dict[str, int]
) -> Float[Array, "b o t"]:
    """Teacher-forced, each option on its own; padding holds numbers without meaning."""
    rows, count, length = options.shape

    def flat(values: Array) -> Array:
        return jnp.broadcast_to(values, options.shape).reshape(rows, count * length)

    mask = flat(options > 0).astype(jnp.int32)
    source = model.source(inputs, budget=budget)
    target = model.target_segment(
        flat(jnp.pad(options, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]), mask=mask, pos_ids=flat(jnp.arange(length)),
        segment_ids=mask * flat(1 + jnp.arange(count)[:, None]),
    )  # fmt: skip
    hidden = model.decoder(target, encoded=model.encoder(source), source=source)

    def of_one(option: tuple[Array, Array]) -> Array:
        states, ids = option
        every = jax.nn.log_softmax(model.logits(states))
        return jnp.take_along_axis(every, ids[..., None], axis=-1)[..., 0]

    by_option = hidden.reshape(rows, count, length, -1).swapaxes(0, 1), options.swapaxes(0, 1)
    return jax.lax.map(of_one, by_option).swapaxes(0, 1)
