"""What differs between two recipes of a stage, field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from uio2.pipeline.stage import flatten


@dataclasses.dataclass(frozen=True)
class Change:
    """A difference to the newest published artifact of the same name: `spec.steps: 10 -> 20`."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: {_shown(self.old)} -> {_shown(self.new)}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, unknown: Sequence[str] = ()) -> tuple[Change, ...]:
    """Field by field, what identifies a stage: code, spec and input digests; `unknown` inputs are left out."""
    sides = []
    for recipe in (old, new):
        inputs = {key: value["digest"] for key, value in recipe["inputs"].items() if key not in unknown}
        parts = {"stage": recipe["stage"], "code_version": recipe["code_version"], "spec": recipe["spec"]}
        sides.append(flatten({**parts, "inputs": inputs}))
    before, after = sides
    keys = [*after, *(key for key in before if key not in after)]
    return tuple(
        Change(key, before.get(key, "(absent)"), after.get(key, "(absent)"))
        for key in keys
        if before.get(key, "(absent)") != after.get(key, "(absent)") and after.get(key) != {} and before.get(key) != {}
    )


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    text = value if value == "(absent)" else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
