"""What nothing in a store refers to any more, and removing it.

Kept: every registered model version and the decisions about it, the artifacts of the last run of each pipeline, the
newest artifacts of each name, and whatever those were made from. Removed as well: the scratch of stages that nobody
runs. An artifact is renamed out of its place before its files go, so a kill leaves it whole or gone; one that a running
stage holds is left alone.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from uio2.pipeline import registry
from uio2.pipeline.artifact import SOURCE
from uio2.pipeline.store import KEY, Record, Store

SCRATCH_S = 24 * 3600.0  # scratch younger than this may be resumed by whoever stopped it


@dataclasses.dataclass(frozen=True)
class Garbage:
    """Something to remove.

    Attributes:
      name: artifact name, or `.work/<key>`.
      fingerprint: of the artifact; of scratch its first 16 digits.
      path: its folder.
      bytes: size of its files.
      age_s: seconds since it was made or last touched.
    """

    name: str
    fingerprint: str
    path: str
    bytes: int
    age_s: float


def find_garbage(store: Store, *, keep: int = 1, older_than_s: float = 0.0) -> list[Garbage]:
    """Everything unreferenced, oldest first.

    Args:
      store: where to look.
      keep: how many of the newest artifacts of each name count as referred to.
      older_than_s: leave younger ones alone.
    """
    records = store.records()
    kept = _reachable(records, _roots(store, records, keep=keep))
    now = time.time()
    found = [
        Garbage(record["name"], record["fingerprint"], str(path), _size(path), now - record["created"])
        for record, path in records
        if record["fingerprint"] not in kept
    ]
    for path in sorted((store.root / ".work").glob("*")) if (store.root / ".work").is_dir() else ():
        age = now - path.stat().st_mtime
        if KEY.fullmatch(path.name) and age > SCRATCH_S:
            found.append(Garbage(f".work/{path.name}", path.name, str(path), _size(path), age))
    return [item for item in found if item.age_s >= older_than_s]


def remove(store: Store, items: Iterable[Garbage]) -> list[Garbage]:
    """Removes what nobody holds the lease of; returns what is gone."""
    gone = []
    for item in items:
        lease = store.lease(item.fingerprint)
        if not lease.try_acquire():
            continue
        with lease:
            away = store.folder(".tmp") / f"{item.fingerprint[:16]}-garbage"
            shutil.rmtree(away, ignore_errors=True)
            Path(item.path).rename(away)
            shutil.rmtree(away, ignore_errors=True)
        gone.append(item)
    return gone


def _roots(store: Store, records: list[tuple[Record, Path]], *, keep: int) -> set[str]:
    """Fingerprints that count for themselves."""
    found: set[str] = set()
    for model in registry.models(store):
        versions = {version.number: version.fingerprint for version in registry.versions(store, model)}
        found.update(versions.values())
        # The evidence of what became of each of them.
        found |= {event.decision for event in registry.read_aliases(store, model).events if event.number in versions}
    for path in (store.root / "runs").glob("*.json"):
        found |= {row["fingerprint"] for row in json.loads(path.read_text())["stages"]}
    by_name: dict[str, list[str]] = {}
    for record, _ in records:  # oldest first
        by_name.setdefault(record["name"], []).append(record["fingerprint"])
    return found | {fingerprint for own in by_name.values() for fingerprint in own[len(own) - keep :]}


def _reachable(records: list[tuple[Record, Path]], roots: set[str]) -> set[str]:
    """The roots and everything they were made from."""
    inputs = {
        record["fingerprint"]: [v["fingerprint"] for v in record["inputs"].values() if v["kind"] != SOURCE]
        for record, _ in records
    }
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        fingerprint = waiting.pop()
        if fingerprint not in seen:
            seen.add(fingerprint)
            waiting += inputs.get(fingerprint, [])
    return seen


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
