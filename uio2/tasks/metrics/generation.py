"""How near made pictures are to real ones, in the space of some features: Frechet distance, kernel distance, likeness.

The Frechet distance (Heusel et al. 2017) is that of two Gaussians, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with
unbiased covariances; with the features of Inception v3 it is what papers call FID. The kernel distance (Binkowski et
al. 2018, KID) is the unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3, averaged over blocks
of `BLOCK` examples. Both fall towards 0 as the sets grow alike; the first is biased upwards in small sets, the second
is not and may be below 0. Likeness is an example's own: the cosine of its picture's features and those of its true
picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from uio2.tasks.metrics.result import (
    DEFAULT_RESAMPLING,
    Id,
    MetricError,
    Resampling,
    Result,
    counts_results,
    mean_result,
)

METRIC = "generation"
BLOCK = 1000
# What all resamples of the distances may cost together, in multiplications; large features are drawn less often.
_BUDGET = 3e11
_LEAST_DRAWS = 20

Features = Float[np.ndarray, "n d"]


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Mean [d] and covariance [d, d] of features."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]

    @classmethod
    def of(cls, features: Features, counts: Float[np.ndarray, " n"] | None = None) -> Gaussian:
        """Of rows taken `counts` times each, once by default."""
        values = np.asarray(features, np.float64)
        weights = np.ones(len(values)) if counts is None else counts
        total = weights.sum()
        mean = weights @ values / total
        centred = values - mean
        return cls(mean, (centred * weights[:, None]).T @ centred / (total - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """The squared distance of two Gaussians."""
    root = _square_root(a.covariance)
    # tr (C1 C2)^(1/2) without the square root of a matrix that is not symmetric.
    inner = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(np.clip(inner, 0, None)).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return float(((a.mean - b.mean) ** 2).sum() + spread)


def _square_root(matrix: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def kernel_distance(made: Features, real: Features) -> float:
    """The unbiased squared discrepancy of two sets of two or more."""
    return _Blocks.of(made, real).distance(np.ones(len(made)))


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Kernel values of each block: made with made and real with real (nothing on the diagonal), made with real."""

    kernels: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, made: Features, real: Features) -> _Blocks:
        count = max(1, round(len(made) / BLOCK))
        parts = zip(np.array_split(made, count), np.array_split(real, count), strict=True)
        return cls(tuple((_alone(_kernel(x, x)), _alone(_kernel(y, y)), _kernel(x, y)) for x, y in parts))

    def distance(self, counts: Float[np.ndarray, " n"]) -> float:
        """The mean over blocks, of examples taken `counts` times."""
        total, weight, start = 0.0, 0.0, 0
        for own, other, cross in self.kernels:
            c = counts[start : start + len(own)]
            start += len(own)
            pairs = c.sum() ** 2 - (c**2).sum()
            if pairs > 0:
                apart = (c @ cross @ c - (c**2 * np.diag(cross)).sum()) / pairs
                total += c.sum() * ((c @ own @ c + c @ other @ c) / pairs - 2 * apart)
                weight += c.sum()
        return total / weight if weight else float("nan")


def _kernel(x: Features, y: Features) -> Float[np.ndarray, "n m"]:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _alone(kernel: np.ndarray) -> np.ndarray:
    np.fill_diagonal(kernel, 0.0)
    return kernel


def generation_results(
    made: Features,
    *,
    real: Features,
    ids: Sequence[Id],
    texts: Features | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`frechet`, `kernel`, `likeness`; with features of the texts `text_likeness`, 100 times their cosine, at least 0.

    Args:
      made, real: features of the pictures; row i of both is example i.
      ids: the examples.
      texts: features of what was asked for, in the same space.
      resampling: of the intervals; of the distances as many draws as a budget allows.

    Raises:
      MetricError: an example's features are no numbers.
      ValueError: fewer than two examples, or features of other shapes.
    """
    sides = {"made": made, "real": real, **({} if texts is None else {"texts": texts})}
    arrays = {name: _checked(name, values, ids=ids) for name, values in sides.items()}
    made, real = arrays["made"], arrays["real"]
    blocks, target, width = _Blocks.of(made, real), Gaussian.of(real), made.shape[1]

    def statistic(counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r 2"]:
        return np.array([[frechet_distance(Gaussian.of(made, c), target), blocks.distance(c)] for c in counts])

    cost = len(made) * width**2 + 20 * width**3 + 6 * len(made) * min(len(made), BLOCK)
    draws = int(min(resampling.resamples, max(_LEAST_DRAWS, _BUDGET / cost)))
    found = counts_results(
        METRIC, figures=["frechet", "kernel"], ids=ids, statistic=statistic, width=len(ids),
        resampling=dataclasses.replace(resampling, resamples=draws),
    )  # fmt: skip
    likeness = _cosines(made, real)
    found["likeness"] = mean_result(f"{METRIC}/likeness", ids=ids, scores=likeness, resampling=resampling)
    if texts is not None:
        scores = 100 * np.clip(_cosines(made, arrays["texts"]), 0, None)
        found["text_likeness"] = mean_result(f"{METRIC}/text_likeness", ids=ids, scores=scores, resampling=resampling)
    return found


def _checked(name: str, values: Features, *, ids: Sequence[Id]) -> Features:
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or len(array) != len(ids) or len(ids) < 2:
        raise ValueError(
            f"{METRIC}: features of {name} have shape {array.shape} for {len(ids)} examples; expected a row for each, "
            "of two or more"
        )
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise MetricError(METRIC, ids[int(bad[0])], f"features of {name} are NaN or infinite")
    return array


def _cosines(a: Features, b: Features) -> Float[np.ndarray, " n"]:
    if a.shape != b.shape:
        raise ValueError(f"{METRIC}: features of texts have {b.shape[1]} numbers, of pictures {a.shape[1]}")
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
