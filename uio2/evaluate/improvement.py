"""Is a figure better than the champion's, or could that be chance?

Both scores are asked for the same examples: their ids are the same and, where the records tell, the datasets are the
same bytes. Then a paired sign-flip test on the per-example scores decides; without such scores, or on other examples,
the challenger's interval must lie wholly on the better side of the champion's, which asks for more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from uio2.evaluate.paired import Delta, delta, example_scores
from uio2.evaluate.summary import PER_EXAMPLE, MetricRow
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.store import read_record

PAIRED, INTERVALS = "paired sign-flip test", "intervals"


@dataclasses.dataclass(frozen=True)
class Improvement:
    """What was found.

    Attributes:
      better: significantly better than the champion.
      gain: how much better, whichever direction that is; negative is worse.
      p: of the paired test; None where intervals decided.
      method: `PAIRED` or `INTERVALS`.
      why: why it was not the paired test; "" where it was.
      evidence: the numbers behind it, as JSON.
    """

    better: bool
    gain: float
    p: float | None
    method: str
    why: str
    evidence: Mapping[str, Any]


def improvement(row: MetricRow, *, reigning: MetricRow, pair: Delta | None, why: str, p: float) -> Improvement:
    """Judges one figure.

    Args:
      row: the challenger's.
      reigning: the champion's.
      pair: the paired difference, challenger minus champion; None leaves it to the intervals.
      why: why there is none.
      p: largest p that counts.
    """
    sign = -1.0 if row.less_is_better else 1.0
    if pair is not None:
        gain = sign * pair.value
        better = gain > 0 and pair.p < p
        return Improvement(better, gain, pair.p, PAIRED, "", _rounded(dataclasses.asdict(pair)))
    apart = reigning.low - row.high if row.less_is_better else row.low - reigning.high
    evidence = {"challenger": [row.value, row.low, row.high], "champion": [reigning.value, reigning.low, reigning.high]}
    return Improvement(apart > 0, sign * (row.value - reigning.value), None, INTERVALS, why, evidence)


def pair_of(metric: str, *, challenger: Artifact, champion: Artifact) -> tuple[Delta | None, str]:
    """The paired difference of two score artifacts in a metric, or None and why there is none."""
    if not all((score.path / PER_EXAMPLE).exists() for score in (challenger, champion)):
        return None, "one of the scores has no figures of single examples"
    ours, theirs = (example_scores(score.path).get(metric, {}) for score in (challenger, champion))
    if not ours or not theirs:
        return None, "it is a figure of the set, not of single examples"
    if ours.keys() != theirs.keys():
        return None, "they were scored on other examples"
    if _data(challenger) != _data(champion):
        return None, "they were scored on other data"
    return delta(theirs, ours, name=metric), ""


def _data(score: Artifact) -> dict[str, str]:
    """Digests of the datasets a score was made with; nothing where it has no record."""
    record = read_record(score.path)
    inputs = record["inputs"] if record else {}
    return {key: value["digest"] for key, value in inputs.items() if key != "predictions"}


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in values.items()}
