"""How to decode, as frozen dataclasses; no jax here.

Numbers (temperature, top_p, ...) are arguments of the compiled loop, so trying another value compiles nothing; what
changes the loop's shape (`max_length`, `num_beams`, `top_k`, `locations`, `compat`, and whether a number is in use at
all) is compiled once per combination.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from uio2.model.parts import ConfigError

# Names of the numeric settings and the value at which each does nothing.
NEUTRAL = {"temperature": 0.0, "top_p": 1.0, "guidance": 0.0, "repetition_penalty": 1.0, "length_penalty": 0.0}


@dataclasses.dataclass(frozen=True)
class Locations:
    """Constrained decoding of location tokens (spec: MODEL.md section 11, 12).

    A group of location tokens (a box is four), once begun, is completed: inside it nothing but location ids can
    follow. With `compat` the original's rule holds instead: whenever location ids hold more than half of the
    probability, one of them is taken.

    Attributes:
      first, end: the half-open range of location ids; the published vocabulary's by default.
      group: ids per location: 4 for boxes, 2 for points.
    """

    first: int = 32000
    end: int = 33000
    group: int = 4

    def __post_init__(self) -> None:
        _whole(self, "first", at_least=2)
        _whole(self, "end", at_least=self.first + 1)
        _whole(self, "group", at_least=1)


@dataclasses.dataclass(frozen=True)
class GenerateSettings:
    """Decoding of one modality. `for_modality` has the defaults of each; the fields' own are greedy decoding.

    Attributes:
      max_length: text tokens to decode at most, None for `decoder_max_text_length`. Images and spectrograms always
        have all their codes.
      num_beams: beams of beam search; 0 for none.
      temperature: logits are divided by it before a token is drawn; 0 takes the likeliest token (greedy).
      top_k: draw among the k likeliest tokens only; 0 for all.
      top_p: draw among the fewest tokens that together hold this much probability; 1 for all. The probability is
        that before the temperature, and top_p comes before top_k (spec section 11).
      guidance: classifier-free guidance alpha; 0 for none (Ho and Salimans 2022, arXiv:2207.12598).
      repetition_penalty: logits of tokens already produced are divided by it if positive, multiplied otherwise;
        1 for none (Keskar et al. 2019, arXiv:1909.05858).
      length_penalty: alpha of beam search: scores are divided by ((5 + length) / 6) ** alpha; 0 for none
        (Wu et al. 2016, arXiv:1609.08144).
      locations: keeps groups of location tokens whole; None for free text.
      seed: of the draws; equal seeds give equal samples.
      compat: what the original does where it differs (spec section 11): beams never end and sum over all tokens, the
        repetition penalty sees one previous token, images and spectrograms may hold the ids 0 and 1 and end at 1,
        reported log-probabilities are those after top_p, and `Locations` as described there.
    """

    max_length: int | None = None
    num_beams: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 0.0
    repetition_penalty: float = 1.0
    length_penalty: float = 0.0
    locations: Locations | None = None
    seed: int = 0
    compat: bool = False

    def __post_init__(self) -> None:
        if self.max_length is not None:
            _whole(self, "max_length", at_least=1)
        for field in ("num_beams", "top_k", "seed"):
            _whole(self, field, at_least=0)
        for field in ("temperature", "guidance", "length_penalty"):
            _number(self, field, positive=False)
        _number(self, "top_p", positive=True, most=1.0)
        _number(self, "repetition_penalty", positive=True)
        if not isinstance(self.compat, bool):
            raise _error(self, "compat", "True or False")
        if not (self.locations is None or isinstance(self.locations, Locations)):
            raise _error(self, "locations", "a Locations or None")
        if self.num_beams and (self.temperature or self.guidance):
            field = "temperature" if self.temperature else "guidance"
            raise _error(self, field, "0 with beam search, which draws nothing; or set num_beams to 0")
        if self.length_penalty and not (self.num_beams and not self.compat):
            raise _error(self, "length_penalty", "0 without beam search (num_beams) and with compat, which has none")

    @classmethod
    def for_modality(cls, modality: str, **changes: Any) -> GenerateSettings:
        """The defaults of a modality, with fields changed.

        text: greedy. image: draws at temperature 1 from the top 0.95 of the probability, guidance 10, as the published
        models are run. audio: the same draws without guidance, likewise.

        Raises:
          ConfigError: an unknown modality.
        """
        if modality not in _DEFAULTS:
            raise ConfigError(f"modality is {modality!r}; expected one of {', '.join(_DEFAULTS)}")
        return dataclasses.replace(_DEFAULTS[modality], **changes)

    @property
    def structure(self) -> GenerateSettings:
        """These settings with every number in use replaced by one stand-in: what the loop is compiled for."""
        in_use = {"temperature": 1.0, "top_p": 0.5, "guidance": 1.0, "repetition_penalty": 2.0, "length_penalty": 1.0}
        changes: dict[str, Any] = {
            name: in_use[name] for name, neutral in NEUTRAL.items() if getattr(self, name) != neutral
        }
        return dataclasses.replace(self, **changes, seed=0)


def _error(settings: Any, field: str, expected: str) -> ConfigError:
    return ConfigError(f"{type(settings).__name__}.{field} is {getattr(settings, field)!r}; expected {expected}")


def _whole(settings: Any, field: str, *, at_least: int) -> None:
    value = getattr(settings, field)
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise _error(settings, field, f"a whole number of at least {at_least}")


def _number(settings: Any, field: str, *, positive: bool, most: float = math.inf) -> None:
    value = getattr(settings, field)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or value > most or (positive and value == 0):
        bound = "above 0" if positive else "of at least 0"
        raise _error(settings, field, f"a number {bound}" + ("" if math.isinf(most) else f" and at most {most:g}"))


_DEFAULTS = {
    "text": GenerateSettings(),
    "image": GenerateSettings(temperature=1.0, top_p=0.95, guidance=10.0),
    "audio": GenerateSettings(temperature=1.0, top_p=0.95),
}
