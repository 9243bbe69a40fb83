"""The promote stage: is this checkpoint good enough to carry the model's name, and to be its champion?

    model.json   model_name, accepted, promoted, checkpoint, score, champion (name, version, digest), checks, metrics

Conditions on the model alone (`min_value`, `max_value`, `min_margin`) decide whether it is *accepted*: it becomes a
version. Those against the reigning model (`improve`, `max_fall`) decide whether it is *promoted*: the version becomes
champion, otherwise challenger. A model that fails is published too, with the reasons.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from uio2.evaluate.improvement import improvement, pair_of
from uio2.evaluate.paired import Delta
from uio2.evaluate.specs import PromoteSpec
from uio2.evaluate.summary import MetricRow, metric_rows, read_metrics, read_rows
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageContext

VERSION = 2
MODEL = "model.json"
AGAINST_CHAMPION = ("improve", "max_fall")
# The paired difference in a metric, challenger minus champion, or None and why there is none.
Pairs = Callable[[str], tuple[Delta | None, str]]


@dataclasses.dataclass(frozen=True)
class Check:
    """One condition with its evidence.

    Attributes:
      kind: `min_value`, `max_value`, `min_margin`, `improve` or `max_fall`.
      metric: the key asked about.
      wanted: the number of the spec; of `improve` the largest p.
      found: what was measured for it; None if the metric was not measured. Of `improve` the p of the paired test, None
        where intervals decided or there was no champion.
      passed: found >= wanted (or, for a fall and `max_value`, found <= wanted; for `improve`, better and p below it).
      reason: one sentence.
      evidence: of `improve`, the numbers behind it.
    """

    kind: str
    metric: str
    wanted: float
    found: float | None
    passed: bool
    reason: str
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def run(spec: PromoteSpec, context: StageContext) -> Mapping[str, Any]:
    """Decides on `train` by the figures of `score`, against those of `champion`, the score to beat, if it is given."""
    score, checkpoint = context.inputs["score"], context.inputs["train"]
    champion = context.inputs.get("champion")
    rows = read_rows(score.path)
    reigning = read_metrics(champion.path) if champion else None
    checks = decide(
        spec,
        rows=rows,
        champion=metric_rows(reigning["metrics"]) if reigning else None,
        pairs=lambda metric: pair_of(metric, challenger=score, champion=champion) if champion else (None, ""),
    )
    accepted = all(check.passed for check in checks if check.kind not in AGAINST_CHAMPION)
    promoted = all(check.passed for check in checks)
    metrics = {row.key: _figure(row) for row in rows}
    beaten = reigning.get("checkpoint", "") if reigning else ""
    decision = {
        "version": VERSION,
        "model_name": spec.model_name,
        "accepted": accepted,
        "promoted": promoted,
        "checkpoint": _reference(checkpoint),
        "score": _reference(score),
        "champion": _reference(champion) | {"checkpoint": reigning.get("checkpoint", "")}
        if champion and reigning
        else None,
        "checks": [dataclasses.asdict(check) for check in checks],
        "metrics": metrics,
    }
    write_text(context.out / MODEL, json.dumps(decision, indent=1, allow_nan=False) + "\n")
    failed = [check.reason for check in checks if not check.passed]
    context.progress(1, 1, f"{spec.model_name}: promoted" if promoted else f"not promoted: {'; '.join(failed)}")
    return {
        "model_name": spec.model_name,
        "accepted": accepted,
        "promoted": promoted,
        "reasons": [check.reason for check in checks],
        "metrics": metrics,
        "checkpoint": checkpoint.digest,
        **({"champion": beaten} if champion or spec.improve or spec.max_fall else {}),
    }


def decide(
    spec: PromoteSpec, *, rows: list[MetricRow], champion: list[MetricRow] | None, pairs: Pairs = lambda _: (None, "")
) -> list[Check]:
    """Every condition of the spec, in a fixed order; what was not measured, or has no baseline, fails its condition.

    `pairs` gives paired differences to the champion; without it, intervals say whether a figure is better.
    """
    measured = {row.key: row for row in rows}
    checks = [_value("min_value", measured.get(metric), metric, w) for metric, w in sorted(spec.min_value.items())]
    checks += [_value("max_value", measured.get(metric), metric, w) for metric, w in sorted(spec.max_value.items())]
    checks += [_margin(measured.get(metric), metric, w) for metric, w in sorted(spec.min_margin.items())]
    reigning = {row.key: row for row in champion or ()}
    if spec.improve:
        checks.append(_improvement(spec, measured.get(spec.improve), reigning if champion else None, pairs))
    for metric, wanted in sorted(spec.max_fall.items()):
        if metric in reigning:
            checks.append(_fall(metric, wanted, measured.get(metric), reigning[metric]))
    return checks


def _value(kind: str, row: MetricRow | None, metric: str, wanted: float) -> Check:
    if row is None:
        return Check(kind, metric, wanted, None, False, f"{metric} was not measured")
    if kind == "min_value":
        return _at_least(kind, metric, wanted, row.value, "the value")
    passed = row.value <= wanted
    reason = f"{metric}: the value is {row.value:.3f}, {'at most' if passed else 'above'} {wanted:.3f}"
    return Check(kind, metric, wanted, row.value, passed, reason)


def _margin(row: MetricRow | None, metric: str, wanted: float) -> Check:
    if row is None:
        return Check("min_margin", metric, wanted, None, False, f"{metric} was not measured")
    if row.margin is None:
        return Check("min_margin", metric, wanted, None, False, f"{metric} has no baseline to stand above")
    side = "upper end below" if row.less_is_better else "lower end above"
    return _at_least("min_margin", metric, wanted, round(row.margin, 6), f"the interval's {side} the baseline")


def _at_least(kind: str, metric: str, wanted: float, found: float, what: str) -> Check:
    passed = found >= wanted
    reason = f"{metric}: {what} is {found:.3f}, {'at least' if passed else 'below'} {wanted:.3f}"
    return Check(kind, metric, wanted, found, passed, reason)


def _improvement(
    spec: PromoteSpec, row: MetricRow | None, champion: Mapping[str, MetricRow] | None, pairs: Pairs
) -> Check:
    metric, wanted = spec.improve, spec.significance
    if row is None:
        return Check("improve", metric, wanted, None, False, f"{metric} was not measured")
    if champion is None:
        return Check("improve", metric, wanted, None, True, f"{metric}: there is no champion to improve on")
    if metric not in champion:
        return Check("improve", metric, wanted, None, False, f"{metric} was not measured of the champion; score it")
    pair, why = pairs(metric)
    found = improvement(row, reigning=champion[metric], pair=pair, why=why, p=wanted)
    how = f"paired test on {pair.n} examples: p = {found.p:.4f}" if pair else f"by intervals{why and ', for ' + why}"
    word = "better" if found.gain > 0 else "worse" if found.gain < 0 else "no different"
    said = f"{row.value:.3f} against the champion's {champion[metric].value:.3f}, "
    said += f"{'significantly ' if found.better else ''}{word}" + ("" if found.better or found.gain <= 0 else
                                                                   ", not significantly")  # fmt: skip
    evidence = {"method": found.method, "gain": round(found.gain, 6), **found.evidence}
    return Check("improve", metric, wanted, found.p, found.better, f"{metric}: {said} ({how})", evidence)


def _fall(metric: str, wanted: float, row: MetricRow | None, reigning: MetricRow) -> Check:
    if row is None:
        return Check("max_fall", metric, wanted, None, False, f"{metric} was not measured, the champion's was")
    fall = row.value - reigning.value if row.less_is_better else reigning.value - row.value
    found = round(fall, 6)
    passed = found <= wanted
    said = f"{row.value:.3f} after the champion's {reigning.value:.3f}"
    reason = f"{metric}: {said}, {'within' if passed else 'further than'} the allowed fall of {wanted:.3f}"
    return Check("max_fall", metric, wanted, found, passed, reason)


def _figure(row: MetricRow) -> dict[str, Any]:
    """As in metrics.json."""
    left_out = {"key"} if row.less_is_better else {"key", "less_is_better"}
    return {k: v for k, v in dataclasses.asdict(row).items() if k not in left_out}


def _reference(artifact: Artifact) -> dict[str, str]:
    # No uri: where an artifact lies is no part of what it is.
    return {"name": artifact.name, "version": artifact.version, "digest": artifact.digest}
