"""The one shape of every metric: predictions and references by example id in, named results out.

A metric function takes two mappings with the same ids and returns `dict[str, Result]`. This module pairs the ids,
refuses what does not fit with the example's name, and adds the bootstrap interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from uio2.tasks.metrics.bootstrap import Interval, bootstrap, bootstrap_counts, bootstrap_mean

Id = str | int


class MetricError(ValueError):
    """An example that cannot be scored; the message names metric and example."""

    def __init__(self, metric: str, example: Id, problem: str):
        super().__init__(f"{metric}: example {example!r}: {problem}")


@dataclasses.dataclass(frozen=True)
class Resampling:
    """How intervals are drawn.

    Attributes:
      seed: another number, other draws.
      resamples: how many sets are drawn.
      confidence: share of resampled values inside the interval.
    """

    seed: int = 0
    resamples: int = 1000
    confidence: float = 0.95


DEFAULT_RESAMPLING = Resampling()


@dataclasses.dataclass(frozen=True)
class Result:
    """One figure of a set of examples.

    Attributes:
      name: `<metric>/<figure>`; it decides the draws.
      ids: the examples, in the order of the references.
      interval: the figure on all examples and its bootstrap interval.
      scores: [n] what each example scored, None where an example alone has no score (corpus BLEU, AP).
      sums: [n, k] what each example adds to the sums the figure is made of, None for figures that rank all examples
        together.
      statistic: with `sums`, the figure of column sums, [r, k] -> [r].
    """

    name: str
    ids: tuple[Id, ...]
    interval: Interval
    scores: Float[np.ndarray, " n"] | None = None
    sums: Float[np.ndarray, "n k"] | None = None
    statistic: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def value(self) -> float:
        """The figure on all examples."""
        return self.interval.value


@dataclasses.dataclass(frozen=True)
class Pair[P, R]:
    """An example's prediction and what it is scored against.

    Both are looked up when asked for: a mapping that reads pictures from files never has them all in memory.
    """

    id: Id
    predictions: Mapping[Id, P]
    references: Mapping[Id, R]

    @property
    def prediction(self) -> P:
        """What the model said."""
        return self.predictions[self.id]

    @property
    def reference(self) -> R:
        """What is right."""
        return self.references[self.id]


def paired[P, R](predictions: Mapping[Id, P], *, references: Mapping[Id, R], metric: str) -> list[Pair[P, R]]:
    """Both sides of every example, in the order of the references.

    Raises:
      ValueError: there are no references at all.
      MetricError: an example has only one of the two sides.
    """
    if not references:
        raise ValueError(f"{metric}: references are empty, expected at least one example")
    for example in references:
        if example not in predictions:
            raise MetricError(metric, example, "has no prediction; an empty answer must be given as one")
    for example in predictions:
        if example not in references:
            raise MetricError(metric, example, "has a prediction and no reference")
    return [Pair(example, predictions, references) for example in references]


def check_references[P, R](pairs: Sequence[Pair[P, Sequence[R]]], *, metric: str) -> None:
    """Refuses an example whose list of references is empty, or one text where a list of texts is meant."""
    for pair in pairs:
        if isinstance(pair.reference, str):
            raise MetricError(metric, pair.id, f"references are the single text {pair.reference!r}, expected a list")
        if not len(pair.reference):
            raise MetricError(metric, pair.id, "has no references, expected at least one")


def mean_result(
    name: str, *, ids: Sequence[Id], scores: Sequence[float] | Float[np.ndarray, " n"], resampling: Resampling
) -> Result:
    """Mean of per-example scores."""
    values = np.asarray(scores, np.float64)
    interval = bootstrap_mean(values, name=name, **dataclasses.asdict(resampling))
    return Result(name, tuple(ids), interval, scores=values)


def sums_result(
    name: str,
    *,
    ids: Sequence[Id],
    sums: Float[np.ndarray, "n k"],
    statistic: Callable[[np.ndarray], np.ndarray],
    resampling: Resampling,
) -> Result:
    """A function of column sums ([r, k] -> [r])."""
    interval = bootstrap(sums, statistic=statistic, name=name, **dataclasses.asdict(resampling))
    return Result(name, tuple(ids), interval, sums=np.asarray(sums, np.float64), statistic=statistic)


def part(result: Result, chosen: Int[np.ndarray, " m"], *, resampling: Resampling) -> Result | None:
    """The figure on some of the examples; None where what an example adds depends on the others."""
    ids = [result.ids[i] for i in chosen]
    if result.scores is not None:
        return mean_result(result.name, ids=ids, scores=result.scores[chosen], resampling=resampling)
    if result.sums is not None and result.statistic is not None:
        return sums_result(
            result.name, ids=ids, sums=result.sums[chosen], statistic=result.statistic, resampling=resampling
        )
    return None


def joined(parts: Sequence[Result], *, resampling: Resampling) -> Result:
    """The figure on the examples of all parts, in their order: bit for bit that of scoring them at once.

    Raises:
      ValueError: what an example adds to this figure depends on the others.
    """
    first, ids = parts[0], [example for found in parts for example in found.ids]
    if all(found.scores is not None for found in parts):
        scores = np.concatenate([found.scores for found in parts])
        return mean_result(first.name, ids=ids, scores=scores, resampling=resampling)
    if first.statistic is None or any(found.sums is None for found in parts):
        raise ValueError(f"{first.name}: its examples are ranked together; score them at once")
    sums = np.concatenate([found.sums for found in parts])
    return sums_result(first.name, ids=ids, sums=sums, statistic=first.statistic, resampling=resampling)


def counts_results(
    metric: str,
    *,
    figures: Sequence[str],
    ids: Sequence[Id],
    statistic: Callable[[np.ndarray], np.ndarray],
    width: int,
    resampling: Resampling,
) -> dict[str, Result]:
    """Figures ([r, n] counts -> [r, m]) that rank all examples together; they share their draws."""
    intervals = bootstrap_counts(
        len(ids), statistic=statistic, name=metric, width=width, **dataclasses.asdict(resampling)
    )
    return {
        figure: Result(f"{metric}/{figure}", tuple(ids), interval)
        for figure, interval in zip(figures, intervals, strict=True)
    }
