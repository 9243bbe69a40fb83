"""Answers to instructions: exact match, and ROUGE-L with equal weights as summaries are scored (Lin 2004).

Words are runs of letters and digits of any script, in lower case; for English these are the words of the usual ROUGE
package without its stemmer. Of several references the best counts, as everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from uio2.tasks.metrics.captions import rouge_l
from uio2.tasks.metrics.exact_match import exact_match
from uio2.tasks.metrics.result import (
    DEFAULT_RESAMPLING,
    Id,
    Resampling,
    Result,
    check_references,
    mean_result,
    paired,
)

METRIC = "response"

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _WORD.findall(text.lower())


def response_rouge(prediction: str, *, references: Sequence[str]) -> float:
    """ROUGE-L of one response, the best over its references; two texts without any word are equal."""
    own = words(prediction)
    scores = []
    for reference in references:
        true = words(reference)
        scores.append(rouge_l(own, references=[true], beta=1) if true else float(not own))
    return max(scores)


def response_results(
    predictions: Mapping[Id, str],
    *,
    references: Mapping[Id, Sequence[str]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`exact_match` (blanks at the ends forgiven) and `rouge_l`; an empty prediction scores 0 where words are due.

    Raises:
      MetricError: an example without references.
    """
    pairs = paired(predictions, references=references, metric=METRIC)
    check_references(pairs, metric=METRIC)
    ids = [p.id for p in pairs]
    scores = {
        "exact_match": [
            exact_match(p.prediction.strip(), targets=[text.strip() for text in p.reference]) for p in pairs
        ],
        "rouge_l": [response_rouge(p.prediction, references=p.reference) for p in pairs],
    }
    return {
        figure: mean_result(f"{METRIC}/{figure}", ids=ids, scores=values, resampling=resampling)
        for figure, values in scores.items()
    }
