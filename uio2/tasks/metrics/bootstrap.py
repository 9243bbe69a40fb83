"""Bootstrap intervals whose random draws depend on a name and nothing else.

Resampling n examples with replacement is a multinomial draw of how often each is taken, so a metric that is a
function of sums (a mean, corpus BLEU) needs one matrix product per block of resamples. Two runs on equal scores
give equal intervals, on any machine and in any order of metrics.
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
      statistic: column sums [r, k] -> values [r].
      name: what is measured; with `seed` it decides the draws.
      seed: another number, other draws.
      resamples: how many sets are drawn.
      confidence: share of resampled values inside the interval.

    Raises:
      ValueError: no examples, or a confidence outside 0..1.
    """
    rows = np.asarray(sums, np.float64)
    if not len(rows):
        raise ValueError(f"metric {name!r} has no examples to resample, expected at least one")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence!r}, expected a number between 0 and 1, for example 0.95")
    # Equal rows are interchangeable: 0/1 scores of any number of examples cost two columns.
    unique, counts = np.unique(rows, axis=0, return_counts=True)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    values = []
    block = max(1, _BLOCK_CELLS // len(unique))
    for start in range(0, resamples, block):
        taken = rng.multinomial(len(rows), counts / len(rows), size=min(block, resamples - start))
        values.append(statistic(taken @ unique))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
    full = float(statistic(rows.sum(axis=0, keepdims=True))[0])
    return Interval(full, float(low), float(high))


def bootstrap_mean(
    scores: Float[np.ndarray, " n"], *, name: str, seed: int = 0, resamples: int = 1000, confidence: float = 0.95
) -> Interval:
    """Mean of per-example scores with its interval; arguments as `bootstrap`."""
    scores = np.asarray(scores, np.float64)
    rows = np.stack([scores, np.ones_like(scores)], axis=1)
    return bootstrap(rows, statistic=_mean, name=name, seed=seed, resamples=resamples, confidence=confidence)
