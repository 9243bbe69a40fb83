"""Settings as the compiled loop sees them: what is static, what is a number, and the chain over the logits."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from uio2.model.generate import logits as on
from uio2.model.generate.settings import NEUTRAL, GenerateSettings
from uio2.model.generate.target import Target
from uio2.model.targets import START


@dataclasses.dataclass(frozen=True)
class Rules:
    """How the logits of one modality are changed and a token is chosen.

    Attributes:
      target: which ids exist.
      switches: `GenerateSettings.structure`: which of the rules are in use.
      numbers: the settings named in `NEUTRAL`, float32 scalars.
      allowed: bool [t, v], or [1, v] for every step: ids that may be produced at each step; None for all.
    """

    target: Target
    switches: GenerateSettings
    numbers: dict[str, Array]
    allowed: Bool[Array, "t v"] | None = None

    def uses(self, name: str) -> bool:
        """Whether a numeric setting does anything."""
        return bool(getattr(self.switches, name) != NEUTRAL[name])

    def apply(
        self, logits: Float[Array, "b v"], tokens: Int[Array, "b t"], *, step: Int[Array, ""]
    ) -> Float[Array, "b v"]:
        """Penalty and constraints on the logits of step `step`, `tokens` being produced so far."""
        locations, compat = self.switches.locations, self.switches.compat
        if self.uses("repetition_penalty"):
            penalty = self.numbers["repetition_penalty"]
            if compat:
                last = jnp.where(step > 0, tokens[:, jnp.maximum(step - 1, 0)], START)
                logits = on.penalise_last(logits, last, penalty=penalty)
            else:
                logits = on.penalise_repetition(logits, tokens, step=step, penalty=penalty)
        if locations is not None and compat:
            logits = on.prefer_locations(logits, locations=locations)
        if self.target.end - self.target.first < self.target.vocab_size:
            logits = on.keep_range(logits, first=self.target.first, end=self.target.end)
        if self.allowed is not None:
            row = jnp.minimum(step, self.allowed.shape[0] - 1)
            logits = jnp.where(self.allowed[row], logits, on.REMOVED)
        if locations is not None and not compat:
            logits = on.complete_locations(logits, tokens, step=step, locations=locations)
        return logits

    def choose(self, logits: Float[Array, "b v"], keys: Array) -> Int[Array, " b"]:
        """One token per row from changed logits: the likeliest, or drawn with the row's own key."""
        if not self.uses("temperature"):
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        p = self.numbers["top_p"] if self.uses("top_p") else None
        ids = None
        if self.switches.top_k:
            logits, ids = on.top_k(logits, k=self.switches.top_k, p=p)
        elif p is not None:
            logits = on.top_p(logits, p=p)
        hot = on.heat(logits, temperature=self.numbers["temperature"])
        drawn = jax.vmap(jax.random.categorical)(keys, hot)
        return (drawn if ids is None else jnp.take_along_axis(ids, drawn[:, None], axis=-1)[:, 0]).astype(jnp.int32)

    def filtered(self, logits: Float[Array, "b v"]) -> Float[Array, "b v"]:
        """What the original reports log-probabilities of: logits after top-p, before the temperature."""
        return on.top_p(logits, p=self.numbers["top_p"]) if self.uses("top_p") else logits
