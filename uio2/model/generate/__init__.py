"""Generation: text, images and spectrograms from inputs, and scores of given answers (spec: MODEL.md section 11).

`generate` runs the encoder once and then one compiled loop with static per-layer caches, in which a step costs one
token's work: greedy, drawn (temperature, top-p, top-k, guidance) or beam search, with repetition penalty and
constraints. `score_options` scores answers instead of producing one. `GenerateSettings` says how; what the original
does differently is its `compat`.
"""

from uio2.model.generate.beam import Beams
from uio2.model.generate.generation import GenerateOutput, generate
from uio2.model.generate.options import OptionScores, score_options
from uio2.model.generate.settings import GenerateSettings, Locations

__all__ = [
    "Beams",
    "GenerateOutput",
    "GenerateSettings",
    "Locations",
    "OptionScores",
    "generate",
    "score_options",
]
