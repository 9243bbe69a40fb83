"""Where a report's figures come from: the artifacts above it, walked through their records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uio2.pipeline.artifact import Artifact
from uio2.pipeline.store import read_record


@dataclasses.dataclass(frozen=True)
class Ancestor:
    """One artifact above the report.

    Attributes:
      name: `<pipeline>/<stage>`, or the source's name.
      kind, version, digest: as in its record.
      parents: names of what it was made from, sorted.
    """

    name: str
    kind: str
    version: str
    digest: str
    parents: tuple[str, ...]


def ancestors(inputs: Mapping[str, Artifact]) -> tuple[Ancestor, ...]:
    """Every artifact that the inputs were made from, makers before what they made.

    Artifacts whose record is not in the same store are listed from what their children's records say.
    """
    found: dict[str, Ancestor] = {}

    def visit(*, name: str, kind: str, version: str, digest: str, path: Path | None) -> None:
        if digest in found:
            return
        record = read_record(path) if path else None
        parents = [_described(value) for value in (record or {}).get("inputs", {}).values()]
        for parent in sorted(parents, key=lambda p: (p["name"], p["digest"])):
            place = _place(path, name=parent["name"], fingerprint=parent["fingerprint"])
            visit(**{k: parent[k] for k in ("name", "kind", "version", "digest")}, path=place)
        found[digest] = Ancestor(name, kind, version, digest, tuple(sorted({p["name"] for p in parents})))

    for _, artifact in sorted(inputs.items()):
        visit(
            name=artifact.name, kind=artifact.kind, version=artifact.version, digest=artifact.digest, path=artifact.path
        )
    return tuple(found.values())


def _described(value: Any) -> dict[str, str]:
    """An input in a record: its fields, or its digest alone."""
    if isinstance(value, str):
        return {"name": "", "kind": "", "version": "", "digest": value, "fingerprint": ""}
    return {key: str(value.get(key) or "") for key in ("name", "kind", "version", "digest", "fingerprint")}


def _place(child: Path | None, *, name: str, fingerprint: str) -> Path | None:
    """Where the store that holds `child` (`<root>/<pipeline>/<stage>/<fp16>`) would hold this artifact."""
    if child is None or not name or not fingerprint:
        return None
    return child.parents[2] / name / fingerprint[:16]
