"""`generate`: checks what was asked, runs one compiled loop, hands back tokens and what they stand for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from uio2.model.generate.beam import Beams, beam_search
from uio2.model.generate.cached import CachedDecoder
from uio2.model.generate.rules import Rules
from uio2.model.generate.sampler import sample
from uio2.model.generate.settings import NEUTRAL, GenerateSettings
from uio2.model.generate.targets import EOS, Target
from uio2.model.parts import ConfigError
from uio2.model.unified_io import Batch, UnifiedIO2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GenerateOutput:
    """What was decoded for b rows.

    Attributes:
      tokens: int32 [b, t]. Text: ending in EOS and then 0, unless cut at the length. Images and spectrograms: codes
        + 2. With beam search the best beam.
      logprobs: float32 [b, t], log-probability of each token under the model: softmax of its logits, guided where
        guidance is on, before penalty, constraints, filters and temperature. 0 after the end.
      scores: float32 [b], the sum of `logprobs`; with beam search the best beam's score.
      steps: int32, decoder steps taken.
      beams: all beams of beam search, else None.
    """

    tokens: Int[Array, "b t"]
    logprobs: Float[Array, "b t"]
    scores: Float[Array, " b"]
    steps: Int[Array, ""]
    beams: Beams | None = None


def generate(
    model: UnifiedIO2,
    batch: Mapping[str, ArrayLike],
    *,
    modality: str = "text",
    settings: GenerateSettings | None = None,
    max_length: int | None = None,
    unconditional: Mapping[str, ArrayLike] | None = None,
    allowed: ArrayLike | None = None,
    row_ids: ArrayLike | None = None,
) -> GenerateOutput:
    """Decodes one modality for every row of a batch.

    Args:
      model: any model with that target.
      batch: the `inputs/...` part of a batch; targets are ignored.
      modality: text, image or audio.
      settings: how; None for the modality's defaults (`GenerateSettings.for_modality`).
      max_length: instead of `settings.max_length`.
      unconditional: inputs of the same shapes that guidance steers away from; None for the batch with an empty text
        (EOS alone) and everything else masked.
      allowed: bool [t, v], or [1, v] for every step: the ids that may be produced at each step.
      row_ids: int [b], what tells the draws of one row from another's; None for 0, 1, 2, ... With an id of its own an
        example is sampled equally in whatever batch it stands.

    Raises:
      ConfigError: a setting that does not fit the model.
    """
    settings = settings or GenerateSettings.for_modality(modality)
    if max_length is not None:
        settings = dataclasses.replace(settings, max_length=max_length)
    target = Target.of(model.config, modality)
    length = _length(target, settings)
    inputs = {key: jnp.asarray(value) for key, value in batch.items() if key.startswith("inputs/")}
    rows = next(iter(inputs.values())).shape[0]
    if settings.guidance:
        away = unconditional_inputs(inputs) if unconditional is None else unconditional
        inputs = {key: jnp.concatenate([value, jnp.asarray(away[key])]) for key, value in inputs.items()}
    ids = jnp.arange(rows) if row_ids is None else jnp.asarray(row_ids)
    if ids.shape != (rows,):
        raise ConfigError(f"row_ids have shape {ids.shape}; expected ({rows},), one per row of the batch")
    graph, state = nnx.split(model)
    return _generate(
        graph, state, inputs, ids, jnp.uint32(settings.seed),
        {name: jnp.float32(getattr(settings, name)) for name in NEUTRAL}, _checked(allowed, target, length=length),
        target.as_in_original() if settings.compat else target, settings.structure, length,
    )  # fmt: skip


def unconditional_inputs(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs with an empty text (EOS alone) and every other modality masked.

    Raises:
      ConfigError: there is no text to leave empty, and an encoder without any input means nothing.
    """
    if "inputs/text/tokens" not in inputs:
        raise ConfigError("guidance without text input: expected `unconditional`, the inputs to steer away from")
    masks = {key: jnp.zeros_like(value) for key, value in inputs.items() if key.endswith("/mask")}
    tokens = jnp.zeros_like(inputs["inputs/text/tokens"]).at[:, 0].set(EOS)
    return {**inputs, **masks, "inputs/text/tokens": tokens, "inputs/text/mask": (tokens > 0).astype(jnp.int32)}


def _length(target: Target, settings: GenerateSettings) -> int:
    if settings.max_length is None:
        return target.length
    if target.modality != "text" and settings.max_length != target.length:
        raise ConfigError(f"max_length is {settings.max_length}; {target.modality} always has {target.length} tokens")
    if settings.max_length > target.length:
        raise ConfigError(
            f"max_length is {settings.max_length}; expected 1..{target.length} (decoder_max_text_length)"
        )
    return settings.max_length


def _checked(allowed: ArrayLike | None, target: Target, *, length: int) -> Array | None:
    if allowed is None:
        return None
    mask = np.asarray(allowed)
    if mask.dtype != bool or mask.shape not in ((1, target.vocab_size), (length, target.vocab_size)):
        raise ConfigError(
            f"allowed is {mask.dtype} {mask.shape}; expected bool (1, {target.vocab_size}) or "
            f"({length}, {target.vocab_size})"
        )
    if not mask.any(axis=-1).all():
        raise ConfigError(f"allowed permits nothing at step {int(np.argmin(mask.any(axis=-1)))}")
    return jnp.asarray(mask)


@functools.partial(jax.jit, static_argnums=(0, 7, 8, 9))
def _generate(
    graph: Any, state: Any, inputs: Batch, row_ids: Array, seed: Array, numbers: dict[str, Array],
    allowed: Array | None, target: Target, switches: GenerateSettings, length: int,
) -> GenerateOutput:  # fmt: skip
    model: UnifiedIO2 = nnx.merge(graph, state)
    rules = Rules(target, switches, numbers, allowed)
    decoder = CachedDecoder(model, inputs, target=target, length=length, beams=max(switches.num_beams, 1))
    if switches.num_beams:
        beams, steps = beam_search(decoder, rules)
        return GenerateOutput(beams.tokens[:, 0], beams.logprobs[:, 0], beams.scores[:, 0], steps, beams)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), row_ids)
    end = sample(decoder, rules, keys=keys)
    return GenerateOutput(end.tokens, end.logprobs, end.logprobs.sum(axis=-1), end.step)
