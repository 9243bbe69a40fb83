"""The gate stage: do the figures of an evaluation reach what its suite asks for?

    gate.json   {"version", "passed", "checks": [...], "score"}; a check is as in `model.json` of `promote`

A gate that is not passed is published all the same, with the reasons: whoever ran the evaluation turns it into an exit
status (`refuse`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uio2.evaluate.promote import decide
from uio2.evaluate.specs import GateSpec, PromoteSpec
from uio2.evaluate.summary import read_rows
from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageContext, StageError

VERSION = 1
GATE = "gate.json"


def run(spec: GateSpec, context: StageContext) -> Mapping[str, Any]:
    """Decides on the figures of the input `score`."""
    score = context.inputs["score"]
    conditions = PromoteSpec(
        model_name="gate", min_value=spec.min_value, max_value=spec.max_value, min_margin=spec.min_margin
    )
    checks = decide(conditions, rows=read_rows(score.path), champion=None)
    passed = all(check.passed for check in checks)
    found = {
        "version": VERSION,
        "passed": passed,
        "checks": [dataclasses.asdict(check) for check in checks],
        "score": score.digest,
    }
    write_text(context.out / GATE, json.dumps(found, indent=1, allow_nan=False) + "\n")
    failed = [check.reason for check in checks if not check.passed]
    context.progress(1, 1, f"not passed: {'; '.join(failed)}" if failed else f"passed {len(checks)} conditions")
    return {"passed": passed, "reasons": [check.reason for check in checks], "failed": failed}


def refuse(folder: Path) -> None:
    """Raises StageError with every condition that failed, if one did; `folder` is what the stage published."""
    checks = json.loads((folder / GATE).read_text())["checks"]
    failed = [check["reason"] for check in checks if not check["passed"]]
    if failed:
        lines = "\n".join(f"  - {reason}" for reason in failed)
        raise StageError(f"the gate was not passed ({len(failed)} of {len(checks)} conditions):\n{lines}")
