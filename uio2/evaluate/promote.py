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
      kind: `min_value`, `min_margin` or `max_fall`.
      metric: the key asked about.
      wanted: the number of the spec.
      found: what was measured for it; None if the metric was not measured.
      passed: found >= wanted (or, for a fall, found <= wanted).
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
    metrics = {row.key: {k: v for k, v in dataclasses.asdict(row).items() if k != "key"} for row in rows}
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
    """Every condition of the spec, in a fixed order; a metric that was not measured fails its condition."""
    measured = {row.key: row for row in rows}
    checks = []
    for metric, wanted in sorted(spec.min_value.items()):
        found = measured[metric].value if metric in measured else None
        checks.append(_at_least("min_value", metric, wanted, found, "the value"))
    for metric, wanted in sorted(spec.min_margin.items()):
        row = measured.get(metric)
        found = None if row is None else round(row.low - row.baseline, 6)
        checks.append(_at_least("min_margin", metric, wanted, found, "the interval's lower end above the baseline"))
    reigning = {row.key: row for row in champion or ()}
    for metric, wanted in sorted(spec.max_fall.items()):
        if metric in reigning:
            checks.append(_fall(metric, wanted, measured.get(metric), reigning[metric]))
    return checks


def _at_least(kind: str, metric: str, wanted: float, found: float | None, what: str) -> Check:
    if found is None:
        return Check(kind, metric, wanted, None, False, f"{metric} was not measured")
    passed = found >= wanted
    reason = f"{metric}: {what} is {found:.3f}, {'at least' if passed else 'below'} {wanted:.3f}"
    return Check(kind, metric, wanted, found, passed, reason)


def _fall(metric: str, wanted: float, row: MetricRow | None, reigning: MetricRow) -> Check:
    if row is None:
        return Check("max_fall", metric, wanted, None, False, f"{metric} was not measured, the champion's was")
    found = round(reigning.value - row.value, 6)
    passed = found <= wanted
    said = f"{row.value:.3f} after the champion's {reigning.value:.3f}"
    reason = f"{metric}: {said}, {'within' if passed else 'further than'} the allowed fall of {wanted:.3f}"
    return Check("max_fall", metric, wanted, found, passed, reason)


def _reference(artifact: Artifact) -> dict[str, str]:
    # No uri: where an artifact lies is no part of what it is.
    return {"name": artifact.name, "version": artifact.version, "digest": artifact.digest}
