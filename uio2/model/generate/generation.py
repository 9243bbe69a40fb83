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

from uio2.model.budget import item_budget
from uio2.model.generate.beam import Beams, beam_search
from uio2.model.generate.cached import CachedDecoder
from uio2.model.generate.rules import Rules
from uio2.model.generate.sampler import sample
from uio2.model.generate.settings import NEUTRAL, GenerateSettings
from uio2.model.generate.target import EOS, Target
from uio2.model.parts import ConfigError
from uio2.model.targets import FIRST_CODE
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
      pixels: float32 [b, h, w, 3] in 0..1, of images.
      spectrogram: float32 [b, time, frequency], of audio, on the scale of the audio targets.
    """

    tokens: Int[Array, "b t"]
    logprobs: Float[Array, "b t"]
    scores: Float[Array, " b"]
    steps: Int[Array, ""]
    beams: Beams | None = None
    pixels: Float[Array, "b h w 3"] | None = None
    spectrogram: Float[Array, "b t f"] | None = None


def generate(
    model: UnifiedIO2,
    batch: Mapping[str, ArrayLike],
    *,
    modality: str = "text",
    settings: GenerateSettings | None = None,
    max_length: int | None = None,
    render: bool = True,
    horizontally_pack_inputs: int | None = None,
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
      render: also run the codec that makes the pixels or the spectrogram.
      horizontally_pack_inputs: length of the encoder's rows, real tokens packed to the front; what does not fit is
        dropped. None: no packing. The same answers for less work where batches are mostly padding.
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
        inputs = _doubled(inputs, unconditional_inputs(inputs) if unconditional is None else unconditional)
    ids = jnp.arange(rows) if row_ids is None else jnp.asarray(row_ids)
    if ids.shape != (rows,):
        raise ConfigError(f"row_ids have shape {ids.shape}; expected ({rows},), one per row of the batch")
    graph, state = nnx.split(model)
    how = _How(
        target.as_in_original() if settings.compat else target,
        settings.structure,
        length,
        horizontally_pack_inputs,
        tuple(item_budget(inputs, config=model.config).items()),
    )
    output = _generate(
        graph, how, state, inputs=inputs, row_ids=ids, seed=jnp.uint32(settings.seed),
        numbers={name: jnp.float32(getattr(settings, name)) for name in NEUTRAL},
        allowed=_checked(allowed, target, length=length),
    )  # fmt: skip
    return _rendered(model, output, modality) if render and modality != "text" else output


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


def _doubled(inputs: Mapping[str, Array], away: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """The conditional rows and then the unconditional ones."""
    for key, value in inputs.items():
        if key not in away or jnp.shape(away[key]) != value.shape:
            found = f"shape {jnp.shape(away[key])}" if key in away else "nothing"
            raise ConfigError(f"unconditional has {found} at {key}; expected shape {value.shape}, as in the batch")
    return {key: jnp.concatenate([value, jnp.asarray(away[key])]) for key, value in inputs.items()}


def _length(target: Target, settings: GenerateSettings) -> int:
    if settings.max_length is None:
        return target.length
    if target.modality != "text" and settings.max_length != target.length:
        raise ConfigError(f"max_length is {settings.max_length}; {target.modality} always has {target.length} tokens")
    if settings.max_length > target.length:
        raise ConfigError(f"max_length is {settings.max_length}; expected 1..{target.length} (decoder_max_text_length)")
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


@dataclasses.dataclass(frozen=True)
class _How:
    """What the loop is compiled for."""

    target: Target
    switches: GenerateSettings
    length: int
    pack: int | None
    budget: tuple[tuple[str, int], ...]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(
    graph: Any, how: _How, state: Any, *, inputs: Batch, row_ids: Array, seed: Array, numbers: dict[str, Array],
    allowed: Array | None,
) -> GenerateOutput:  # fmt: skip
    model: UnifiedIO2 = nnx.merge(graph, state)
    rules = Rules(how.target, how.switches, numbers, allowed)
    decoder = CachedDecoder(
        model, model.source(inputs, length=how.pack, budget=dict(how.budget)), modality=how.target.modality,
        length=how.length, beams=max(how.switches.num_beams, 1),
    )  # fmt: skip
    if how.switches.num_beams:
        beams, steps = beam_search(decoder, rules)
        return GenerateOutput(beams.tokens[:, 0], beams.logprobs[:, 0], beams.scores[:, 0], steps, beams)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), row_ids)
    end = sample(decoder, rules, keys=keys)
    return GenerateOutput(end.tokens, end.logprobs, end.logprobs.sum(axis=-1), end.step)


def _rendered(model: UnifiedIO2, output: GenerateOutput, modality: str) -> GenerateOutput:
    codec = getattr(model, f"{modality}_target").codec
    values = _decode(*nnx.split(codec), output.tokens)
    if modality == "image":
        return dataclasses.replace(output, pixels=jnp.clip((values + 1) / 2, 0, 1))
    return dataclasses.replace(output, spectrogram=values[..., 0])


@functools.partial(jax.jit, static_argnums=0)
def _decode(graph: Any, state: Any, tokens: Int[Array, "b t"]) -> Array:
    return nnx.merge(graph, state).decode(tokens - FIRST_CODE)
