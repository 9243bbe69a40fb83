"""How answers are decoded: texts greedily, one of given options by its likelihood, pictures and sound by drawing.

A header's `decoding` says which: {"method": "greedy", "max_length"}, {"method": "beams", "max_length", "num_beams"},
{"method": "options"}, or {"method": "draw", "modality", "seed", "temperature", "top_p", "guidance"}, each with further
settings of generation that were asked for; `locations` is {"first", "end", "group"}. An example is drawn equally in
whatever batch it stands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from uio2.tasks.locations import LOCATION_BINS

if TYPE_CHECKING:
    import jax

    from uio2.model import UnifiedIO2
    from uio2.tasks.feed import Batch

EOS_ID = 1
TEXT = "text"
CHOICES = "choices/tokens"
GREEDY, BEAMS, OPTIONS, DRAW = "greedy", "beams", "options", "draw"
# Options are as many and as long as the batch needs: rounded up, few shapes are compiled.
_OPTIONS_STEP, _TOKENS_STEP = 4, 8


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One answer.

    Attributes:
      tokens: up to the end marker.
      logprob: sum of the log-probabilities of the tokens and the end marker.
      media: of pictures float [h, w, 3] in 0..1, of sound the log-mel spectrogram [t, f]; None for texts.
    """

    tokens: list[int]
    logprob: float
    media: np.ndarray | None = None


def decode(
    model: UnifiedIO2, batch: Batch, *, decoding: Mapping[str, Any], first_index: int, rows: int
) -> list[Decoded]:
    """Answers of the first `rows` examples of a batch; their indices count from `first_index`."""
    if decoding["method"] == OPTIONS:
        found = _choose(model, batch)
    elif decoding.get("modality", TEXT) != TEXT:
        found = _draw(model, batch, decoding, first_index)
    else:
        found = _text(model, batch, decoding, first_index)
    return found[:rows]


def text_decoding(asked: Mapping[str, float | int], *, longest: int, seed: int, first_location: int) -> dict[str, Any]:
    """How texts are decoded, as a header says it.

    Args:
      asked: settings of generation.
      longest: tokens where `asked` does not say.
      seed: of draws.
      first_location: id of the first of the vocabulary's location tokens.
    """
    found: dict[str, Any] = dict(asked)
    found["max_length"] = int(min(found.get("max_length", longest), longest))
    if group := int(found.pop("locations", 0)):
        found["locations"] = {"first": first_location, "end": first_location + LOCATION_BINS, "group": group}
    if found.get("temperature"):
        return {"method": DRAW, "modality": TEXT, "seed": seed} | found
    return {"method": BEAMS if found.get("num_beams") else GREEDY} | found


def up_to_end(ids: Sequence[int]) -> list[int]:
    """The tokens before the end marker."""
    return list(ids[: ids.index(EOS_ID)]) if EOS_ID in ids else list(ids)


def _host(values: jax.Array) -> np.ndarray:
    """All values of an array, also where its parts are with several processes, which decode together."""
    if not (values.is_fully_addressable or values.is_fully_replicated):
        from uio2.model.sharding import gathered

        values = gathered(values)
    return np.asarray(values)


def _text(model: UnifiedIO2, batch: Batch, decoding: Mapping[str, Any], first_index: int) -> list[Decoded]:
    from uio2.model.generate import GenerateSettings, generate
    from uio2.model.generate.settings import Locations

    changes = {k: v for k, v in decoding.items() if k not in ("method", "modality")}
    if "locations" in changes:
        changes["locations"] = Locations(**changes["locations"])
    ids = first_index + np.arange(len(batch["inputs/text/tokens"]))
    output = generate(model, batch, settings=GenerateSettings(**changes), row_ids=ids)
    tokens, logprobs = _host(output.tokens), _host(output.logprobs).astype(np.float64)
    return [Decoded(up_to_end(ids.tolist()), float(each.sum())) for ids, each in zip(tokens, logprobs, strict=True)]


def _choose(model: UnifiedIO2, batch: Batch) -> list[Decoded]:
    """The option of the highest mean log-probability per token: long options are at no disadvantage."""
    from uio2.model.generate import score_options

    options = np.asarray(batch[CHOICES])
    _, count, length = options.shape
    limit = model.config.decoder_max_text_length
    width = min(-(-length // _TOKENS_STEP) * _TOKENS_STEP, max(limit, length))
    padding = ((0, 0), (0, -count % _OPTIONS_STEP), (0, width - length))
    scores = score_options(model, batch, np.pad(options, padding), normalise="length")
    best, logprobs = _host(scores.best), _host(scores.logprobs).astype(np.float64)
    return [
        Decoded(up_to_end(options[i, choice].tolist()), float(logprobs[i, choice].sum()))
        for i, choice in enumerate(best)
    ]


def _draw(model: UnifiedIO2, batch: Batch, decoding: Mapping[str, Any], first_index: int) -> list[Decoded]:
    from uio2.model.generate import GenerateSettings, generate
    from uio2.tasks.audio import undo_target

    modality = decoding["modality"]
    changes = {k: v for k, v in decoding.items() if k not in ("method", "modality")}
    ids = first_index + np.arange(len(batch["inputs/text/tokens"]))
    output = generate(
        model, batch, modality=modality, settings=GenerateSettings.for_modality(modality, **changes), row_ids=ids
    )
    made = output.pixels if modality == "image" else output.spectrogram
    assert made is not None  # rendered
    media = _host(made).astype(np.float32)
    if modality == "audio":
        media = undo_target(media)
    tokens, logprobs = _host(output.tokens), _host(output.logprobs).astype(np.float64)
    return [Decoded(tokens[i].tolist(), float(logprobs[i].sum()), media[i]) for i in range(len(tokens))]
