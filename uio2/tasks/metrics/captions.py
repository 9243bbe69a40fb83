"""Caption metrics without Java: corpus BLEU-1..4, ROUGE-L and CIDEr as the COCO caption evaluation defines them.

All but `caption_results` take token lists. `tokenise` gives the lower-cased, punctuation-free words the COCO
evaluation scores; the functions agree with its Python package to 1e-9 on equal tokens.

Two formulas are called CIDEr. What the COCO evaluation prints under that name, and so every caption table, is
CIDEr-D: counts clipped at the reference's, damped where lengths differ. `cider` is that figure. `cider_plain` is the
paper's first formula, the mean cosine alone, which rewards repeating a rare word.
Sources: Papineni et al. 2002 (BLEU), Lin 2004 (ROUGE-L), Vedantam et al. 2015, sections 3 and 6 (CIDEr, CIDEr-D).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from uio2.tasks.metrics.result import (
    DEFAULT_RESAMPLING,
    Id,
    Resampling,
    Result,
    check_references,
    mean_result,
    paired,
    sums_result,
)

METRIC = "caption"
MAX_ORDER = 4
_ROUGE_BETA = 1.2
# The COCO scorer's guards against log(0) and division by 0; part of its published figures.
_TINY, _SMALL = 1e-15, 1e-9

_WORD = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|[a-z0-9]+(?:[.,:/][0-9]+)*(?:-[a-z0-9]+)*")
_CLITIC = re.compile(r"(?<=[a-z])(n't|'(?:s|re|ve|ll|d|m))\b")


def tokenise(text: str) -> list[str]:
    """Lower-case words in the manner of the Penn Treebank: clitics apart ("it 's"), hyphens kept, no punctuation."""
    return _WORD.findall(_CLITIC.sub(r" \1", text.lower().replace("\u2019", "'")))


def _ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def bleu_counts(candidate: Sequence[str], *, references: Sequence[Sequence[str]]) -> Float[np.ndarray, " 10"]:
    """What one example adds to corpus BLEU: matches[4], n-grams[4], candidate length, closest reference length."""
    matches, totals = [], []
    for order in range(1, MAX_ORDER + 1):
        allowed: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            allowed |= _ngrams(reference, order)
        own = _ngrams(candidate, order)
        matches.append((own & allowed).total())
        totals.append(max(0, len(candidate) - order + 1))
    closest = min((abs(len(r) - len(candidate)), len(r)) for r in references)[1]
    return np.array([*matches, *totals, len(candidate), closest], np.float64)


def bleu(sums: Float[np.ndarray, "r 10"], *, order: int = MAX_ORDER) -> Float[np.ndarray, " r"]:
    """BLEU-`order` of summed `bleu_counts`."""
    sums = np.asarray(sums, np.float64)
    precision = (sums[:, :order] + _TINY) / (sums[:, MAX_ORDER : MAX_ORDER + order] + _SMALL)
    score = np.exp(np.log(precision).mean(axis=1))
    ratio = (sums[:, 8] + _TINY) / (sums[:, 9] + _SMALL)
    return np.where(ratio < 1, score * np.exp(1 - 1 / ratio), score)


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def rouge_l(candidate: Sequence[str], *, references: Sequence[Sequence[str]], beta: float = _ROUGE_BETA) -> float:
    """ROUGE-L of one example: best precision and best recall over the references, F with beta (1 in summarisation)."""
    # The COCO scorer splits on single blanks, which makes an empty text one empty word.
    candidate = candidate or [""]
    common = [(_longest_common(r, candidate), len(r) or 1) for r in references]
    precision = max(c / len(candidate) for c, _ in common)
    recall = max(c / n for c, n in common)
    if precision == 0 or recall == 0:
        return 0.0
    squared = beta**2
    return (1 + squared) * precision * recall / (recall + squared * precision)


class CiderIndex:
    """Document frequencies of a set of references; scores any candidates against it.

    CIDEr weighs an n-gram by how few images' references hold it, so a score belongs to a set, not to one example.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]):
        """`references`: per image, a list of token lists."""
        self._seen: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(MAX_ORDER)]
        for group in references:
            for order in range(1, MAX_ORDER + 1):
                self._seen[order - 1].update(set().union(*(_ngrams(r, order) for r in group)))
        self._log_images = math.log(len(references)) if references else 0.0

    def _vector(self, tokens: Sequence[str], order: int) -> tuple[dict[tuple[str, ...], float], float]:
        seen = self._seen[order - 1]
        weights = {
            gram: count * (self._log_images - math.log(max(1, seen[gram])))
            for gram, count in _ngrams(tokens, order).items()
        }
        return weights, math.sqrt(sum(w * w for w in weights.values()))

    def score(self, candidate: Sequence[str], *, references: Sequence[Sequence[str]]) -> float:
        """CIDEr-D of one example, 0..10: mean over orders and references of clipped cosine, length-damped."""
        return self._score(candidate, references, damped=True)

    def plain_score(self, candidate: Sequence[str], *, references: Sequence[Sequence[str]]) -> float:
        """The undamped CIDEr of one example, on the same scale of 0..10: mean cosine over orders and references."""
        return self._score(candidate, references, damped=False)

    def _score(self, candidate: Sequence[str], references: Sequence[Sequence[str]], *, damped: bool) -> float:
        total = 0.0
        for order in range(1, MAX_ORDER + 1):
            own, own_norm = self._vector(candidate, order)
            for reference in references:
                other, other_norm = self._vector(reference, order)
                shared = (g for g in own if g in other)
                dot = sum((min(own[g], other[g]) if damped else own[g]) * other[g] for g in shared)
                if own_norm and other_norm:
                    dot /= own_norm * other_norm
                if damped:
                    # The COCO scorer measures length in bigrams.
                    gap = max(0, len(candidate) - 1) - max(0, len(reference) - 1)
                    dot *= math.exp(-(gap**2) / (2 * 6.0**2))
                total += dot
        return 10.0 * total / (MAX_ORDER * len(references))


def caption_results(
    predictions: Mapping[Id, str],
    *,
    references: Mapping[Id, Sequence[str]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`bleu_1`..`bleu_4` of the corpus, means of `rouge_l`, `cider`, `cider_plain`.

    An empty prediction scores 0. CIDEr's document frequencies stay those of the full set in every resample: drawing
    them again counts a doubled image as two documents, which lowers every weight (on 126 images the mean of the
    resamples falls by 1.5% of the figure where it should stay).

    Raises:
      MetricError: an example without references.
    """
    pairs = paired(predictions, references=references, metric=METRIC)
    check_references(pairs, metric=METRIC)
    ids = [p.id for p in pairs]
    groups = [[tokenise(text) for text in p.reference] for p in pairs]
    examples = list(zip([tokenise(p.prediction) for p in pairs], groups, strict=True))
    index = CiderIndex(groups)
    counts = np.stack([bleu_counts(c, references=r) for c, r in examples])
    scores = {
        "rouge_l": [rouge_l(c, references=r) for c, r in examples],
        "cider": [index.score(c, references=r) for c, r in examples],
        "cider_plain": [index.plain_score(c, references=r) for c, r in examples],
    }
    return {
        f"bleu_{order}": sums_result(
            f"{METRIC}/bleu_{order}",
            ids=ids,
            sums=counts,
            statistic=partial(bleu, order=order),
            resampling=resampling,
        )
        for order in range(1, MAX_ORDER + 1)
    } | {
        figure: mean_result(f"{METRIC}/{figure}", ids=ids, scores=values, resampling=resampling)
        for figure, values in scores.items()
    }
