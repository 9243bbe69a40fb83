"""Bootstrap intervals whose random draws depend on a name and nothing else.

Resampling n examples with replacement is a multinomial draw of how often each is taken. A metric that is a function
of sums (a mean, corpus BLEU) needs one matrix product per block of resamples (`bootstrap`); one that ranks all
examples together (average precision) is a function of the counts themselves (`bootstrap_counts`). Nothing is scored
twice. Two runs on equal scores give equal intervals, on any machine and in any order of metrics.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

_BLOCK_CELLS = 4_000_000  # int64 counts held at once: 32 MB


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure on the full set and the central interval of its resampled values."""

    value: float
    low: float
    high: float


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def _generator(name: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _check(examples: int, *, name: str, confidence: float) -> None:
    if not examples:
        raise ValueError(f"metric {name!r} has no examples to resample, expected at least one")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence!r}, expected a number between 0 and 1, for example 0.95")


def _interval(value: float, *, resampled: Float[np.ndarray, " r"], confidence: float) -> Interval:
    """The central share of the resampled values that are defined."""
    defined = resampled[~np.isnan(resampled)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (np.nan, np.nan)
    return Interval(value, float(low), float(high))


def bootstrap(
    sums: Float[np.ndarray, "n k"],
    *,
    statistic: Callable[[np.ndarray], np.ndarray],
    name: str,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic of column sums.

    Args:
      sums: what each example adds, one row per example.
      statistic: column sums [r, k] -> values [r]; NaN, undefined for these sums, is left out of the interval.
      name: what is measured; with `seed` it decides the draws.
      seed: another number, other draws.
      resamples: how many sets are drawn.
      confidence: share of resampled values inside the interval.

    Raises:
      ValueError: no examples, or a confidence outside 0..1.
    """
    rows = np.asarray(sums, np.float64)
    _check(len(rows), name=name, confidence=confidence)
    # Equal rows are interchangeable: 0/1 scores of any number of examples cost two columns.
    unique, counts = np.unique(rows, axis=0, return_counts=True)
    rng = _generator(name, seed)
    values = []
    block = max(1, _BLOCK_CELLS // len(unique))
    for start in range(0, resamples, block):
        taken = rng.multinomial(len(rows), counts / len(rows), size=min(block, resamples - start))
        values.append(statistic(taken @ unique))
    full = float(statistic(rows.sum(axis=0, keepdims=True))[0])
    return _interval(full, resampled=np.concatenate(values), confidence=confidence)


def bootstrap_mean(
    scores: Float[np.ndarray, " n"], *, name: str, seed: int = 0, resamples: int = 1000, confidence: float = 0.95
) -> Interval:
    """Mean of per-example scores with its interval; arguments as `bootstrap`."""
    scores = np.asarray(scores, np.float64)
    rows = np.stack([scores, np.ones_like(scores)], axis=1)
    return bootstrap(rows, statistic=_mean, name=name, seed=seed, resamples=resamples, confidence=confidence)


def bootstrap_counts(
    examples: int,
    *,
    statistic: Callable[[np.ndarray], np.ndarray],
    name: str,
    width: int = 0,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> list[Interval]:
    """Percentile intervals of m figures that depend on how often each example was taken.

    All figures see the same draws. A resample where a figure is undefined (NaN: no positive was drawn) is left out
    of that figure's interval.

    Args:
      examples: how many there are.
      statistic: counts [r, n] float64 -> figures [r, m].
      width: cells that one resample takes inside `statistic`, if more than `examples`; bounds the memory.
      name, seed, resamples, confidence: as `bootstrap`.
    """
    _check(examples, name=name, confidence=confidence)
    rng = _generator(name, seed)
    shares = np.full(examples, 1 / examples)
    values = []
    block = max(1, _BLOCK_CELLS // max(examples, width))
    for start in range(0, resamples, block):
        taken = rng.multinomial(examples, shares, size=min(block, resamples - start))
        values.append(statistic(taken.astype(np.float64)))
    full = statistic(np.ones((1, examples)))[0]
    return [
        _interval(float(value), resampled=column, confidence=confidence)
        for value, column in zip(full, np.concatenate(values).T, strict=True)
    ]
