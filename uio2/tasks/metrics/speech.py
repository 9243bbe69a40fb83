"""Word error rate of recognised speech: edits of the whole set over reference words of the whole set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from uio2.tasks.metrics.result import DEFAULT_RESAMPLING, Id, Resampling, Result, paired, sums_result

METRIC = "speech"

_NOT_SPOKEN = re.compile(r"[^\w\s']|_")


def spoken_words(text: str) -> list[str]:
    """Lower-case words without punctuation; an apostrophe inside a word stays, a curly one becomes straight."""
    plain = _NOT_SPOKEN.sub(" ", text.lower().replace("\u2019", "'"))
    return [word for word in (w.strip("'") for w in plain.split()) if word]


def word_edits(candidate: Sequence[str], *, reference: Sequence[str]) -> int:
    """The least number of substituted, deleted and inserted words (Levenshtein distance)."""
    row = list(range(len(candidate) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(candidate, 1):
            kept = diagonal + (word != other)
            diagonal = row[j]
            row[j] = min(kept, diagonal + 1, row[j - 1] + 1)
    return row[-1]


def _rate(sums: Float[np.ndarray, "r 2"]) -> Float[np.ndarray, " r"]:
    # A resample of wordless references has no rate.
    return sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], np.nan)


def speech_results(
    predictions: Mapping[Id, str], *, references: Mapping[Id, str], resampling: Resampling = DEFAULT_RESAMPLING
) -> dict[str, Result]:
    """`wer`, 0 is perfect, above 1 where more was inserted than was said.

    An empty prediction deletes every word. A reference without words (a silent clip) adds its insertions alone.

    Raises:
      ValueError: no reference of the set holds a word.
    """
    pairs = paired(predictions, references=references, metric=METRIC)
    rows = []
    for pair in pairs:
        said = spoken_words(pair.reference)
        rows.append([word_edits(spoken_words(pair.prediction), reference=said), len(said)])
    sums = np.array(rows, np.float64)
    if not sums[:, 1].any():
        raise ValueError(f"{METRIC}: no reference holds a word, expected at least one that does")
    name = f"{METRIC}/wer"
    return {"wer": sums_result(name, ids=[p.id for p in pairs], sums=sums, statistic=_rate, resampling=resampling)}
