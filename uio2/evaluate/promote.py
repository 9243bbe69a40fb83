"""The promote stage: is this checkpoint good enough to carry the model's name?

    model.json   model_name, promoted, checkpoint (name, version, digest), score (digest), checks, metrics

A model that fails is published too, with the reasons; only the registry is closed to it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from uio2.evaluate.specs import PromoteSpec
from uio2.evaluate.summary import MetricRow, read_rows
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageContext

VERSION = 1
MODEL = "model.json"


@dataclasses.dataclass(frozen=True)
class Check:
    """One condition with its evidence.

    Attributes:
      kind: `min_value`, `max_value`, `min_margin` or `max_fall`.
      metric: the key asked about.
      wanted: the number of the spec.
      found: what was measured for it; None if the metric was not measured.
      passed: found >= wanted (or, for a fall and `max_value`, found <= wanted).
      reason: one sentence.
    """

    kind: str
    metric: str
    wanted: float
    found: float | None
    passed: bool
    reason: str


def run(spec: PromoteSpec, context: StageContext) -> Mapping[str, Any]:
    """Decides on the input `train` by the figures of the input `score`, guarded by those of `champion` if given."""
    rows = read_rows(context.inputs["score"].path)
    champion = context.inputs.get("champion")
    checks = decide(spec, rows=rows, champion=read_rows(champion.path) if champion else None)
    promoted = all(check.passed for check in checks)
    metrics = {row.key: _figure(row) for row in rows}
    checkpoint = context.inputs["train"]
    decision = {
        "version": VERSION,
        "model_name": spec.model_name,
        "promoted": promoted,
        "checkpoint": _reference(checkpoint),
        "score": _reference(context.inputs["score"]),
        "champion": _reference(champion) if champion else None,
        "checks": [dataclasses.asdict(check) for check in checks],
        "metrics": metrics,
    }
    write_text(context.out / MODEL, json.dumps(decision, indent=1, allow_nan=False) + "\n")
    failed = [check.reason for check in checks if not check.passed]
    context.progress(1, 1, f"{spec.model_name}: promoted" if promoted else f"not promoted: {'; '.join(failed)}")
    return {
        "model_name": spec.model_name,
        "promoted": promoted,
        "reasons": [check.reason for check in checks],
        "metrics": metrics,
        "checkpoint": checkpoint.digest,
    }


def decide(spec: PromoteSpec, *, rows: list[MetricRow], champion: list[MetricRow] | None) -> list[Check]:
    """Every condition of the spec, in a fixed order; what was not measured, or has no baseline, fails its condition."""
    measured = {row.key: row for row in rows}
    checks = [_value("min_value", measured.get(metric), metric, w) for metric, w in sorted(spec.min_value.items())]
    checks += [_value("max_value", measured.get(metric), metric, w) for metric, w in sorted(spec.max_value.items())]
    checks += [_margin(measured.get(metric), metric, w) for metric, w in sorted(spec.min_margin.items())]
    reigning = {row.key: row for row in champion or ()}
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
