"""From a model back to raw files, from the records alone, every digest read again.

Works with MLflow gone. Each artifact is checked three ways: its files against the digest in its record, its record's
recipe against its own fingerprint, and its digest against what the artifact made from it says it was given.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uio2.pipeline import registry
from uio2.pipeline.artifact import SOURCE, canonical_json, digest_directory
from uio2.pipeline.places import is_remote
from uio2.pipeline.sources import source_digest
from uio2.pipeline.stage import UsageError
from uio2.pipeline.store import Record, Store

OK, MISMATCH, MISSING = "ok", "MISMATCH", "MISSING"


@dataclasses.dataclass(frozen=True)
class Node:
    """One artifact or source in a chain.

    Attributes:
      name: artifact name; for a source its input name.
      kind, version, digest, fingerprint: as recorded (a source has only kind and digest).
      uri: where it lies.
      status: "ok", "MISMATCH" or "MISSING".
      detail: what is wrong, or figures worth a line.
      depth: distance from the start.
      role: input name under which the node below it uses it; "" at the start.
      seen: this node was shown (with its inputs) before.
    """

    name: str
    kind: str
    version: str
    digest: str
    fingerprint: str
    uri: str
    status: str
    detail: str
    depth: int
    role: str
    seen: bool = False


def resolve(store: Store, reference: str) -> tuple[Record, Path]:
    """The record behind `MODEL[@N]`, `MODEL@champion` or `PIPELINE/STAGE[@VERSION]`; UsageError with what is there."""
    name, _, version = reference.partition("@")
    if "/" in name:
        found = store.newest(name, version=version or None)
        if found is None:
            known = sorted({f"{r['name']}@{r['version']}" for r, _ in store.records()})
            raise UsageError(f"no artifact {reference!r} in {store.root}; there are: {', '.join(known) or 'none'}")
        return found
    model = registry.find_version(store, name, version)
    if model is None:
        models = ", ".join(registry.references(store))
        raise UsageError(f"no model {reference!r} in {store.root}; there are: {models or 'none'}")
    found = store.newest(model.artifact, version=model.fingerprint)
    if found is None or found[0]["digest"] != model.digest:
        raise UsageError(
            f"model {name}@{model.number}: {model.artifact} {model.fingerprint[:12]} is gone from the store"
        )
    return found


def walk(store: Store, reference: str) -> Iterator[Node]:
    """Yields the chain depth first, start to raw files; each artifact's bytes are read once."""
    record, path = resolve(store, reference)
    yield from _walk(store, record, path, role="", depth=0, expected=record["digest"], seen=set())


def _walk(
    store: Store, record: Record, path: Path, *, role: str, depth: int, expected: str, seen: set[str]
) -> Iterator[Node]:
    fields = {key: record[key] for key in ("name", "kind", "version", "digest", "fingerprint")}
    if record["fingerprint"] in seen:
        same = record["digest"] == expected
        detail = "shown above" if same else f"the consumer read digest {expected[:12]}"
        status = OK if same else MISMATCH
        yield Node(**fields, uri=str(path), status=status, detail=detail, depth=depth, role=role, seen=True)
        return
    seen.add(record["fingerprint"])
    status, detail = check(record, path, expected=expected)
    yield Node(**fields, uri=str(path), status=status, detail=detail, depth=depth, role=role)
    for key, value in record["inputs"].items():
        if value["kind"] == SOURCE:
            yield _source(value, role=key, depth=depth + 1, seen=seen)
            continue
        found = store.newest(value["name"], version=value["fingerprint"])
        if found is None:
            missing = {k: value[k] for k in ("name", "kind", "version", "digest", "fingerprint")}
            yield Node(**missing, uri="", status=MISSING, detail="no record in the store", depth=depth + 1, role=key)
        else:
            yield from _walk(store, *found, role=key, depth=depth + 1, expected=value["digest"], seen=seen)


def _source(value: dict[str, Any], *, role: str, depth: int, seen: set[str]) -> Node:
    path = value["path"]
    again = value["digest"] in seen
    seen.add(value["digest"])
    digest = value["digest"] if again and (is_remote(path) or Path(path).exists()) else source_digest(path)
    if digest is None:
        status, detail = MISSING, "the path is gone"
    elif digest != value["digest"]:
        status, detail = MISMATCH, f"content is {digest[:12]}"
    else:
        status, detail = OK, ""
    return Node(
        value["name"], SOURCE, "", value["digest"], "", path, status, detail, depth=depth, role=role, seen=again
    )


def check(record: Record, path: Path, *, expected: str) -> tuple[str, str]:
    """(status, detail) of one artifact."""
    identity = {
        "stage": record["stage"],
        "code_version": record["code_version"],
        "spec": record["spec"],
        "inputs": {key: value["digest"] for key, value in record["inputs"].items()},
    }
    if hashlib.sha256(canonical_json(identity).encode()).hexdigest() != record["fingerprint"]:
        return MISMATCH, "the record's recipe does not give its fingerprint: the record was edited"
    if record["digest"] != expected:
        return MISMATCH, f"it was {expected[:12]} when it was used"
    digest = digest_directory(path, volatile=record["volatile"])
    if digest != record["digest"]:
        return MISMATCH, f"the files give {digest[:12]}: they were changed after publishing"
    return OK, ""
