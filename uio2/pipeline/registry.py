"""Model versions: `models/<name>/<n>.json` in the store, numbered from 1, one per fingerprint.

The file points at the artifact by name and fingerprint, which leads back to data through the records. MLflow's model
registry mirrors these files; this one works without it.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from uio2.pipeline.artifact import Artifact
from uio2.pipeline.store import Store, locked, write_json


@dataclasses.dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    Attributes:
      model: registered name.
      number: 1, 2, ...
      artifact: name of the artifact.
      fingerprint: its full fingerprint.
      digest: its digest.
      created: seconds since the epoch.
      new: this call made it.
    """

    model: str
    number: int
    artifact: str
    fingerprint: str
    digest: str
    created: float
    new: bool = False


def register(store: Store, *, model: str, artifact: Artifact) -> ModelVersion:
    """The version of this artifact, a new one if it has none. Safe from several processes, idempotent."""
    with locked(store, f"model-{model}"):
        known = versions(store, model)
        for version in known:
            if version.fingerprint == artifact.fingerprint:
                return version
        number = max((version.number for version in known), default=0) + 1
        fields: dict[str, Any] = {
            "model": model,
            "number": number,
            "artifact": artifact.name,
            "fingerprint": artifact.fingerprint,
            "digest": artifact.digest,
            "created": round(time.time(), 3),
        }
        write_json(store.folder("models", model) / f"{number}.json", fields)
        return ModelVersion(**fields, new=True)


def versions(store: Store, model: str) -> list[ModelVersion]:
    """Every version of a model, in order."""
    folder = store.root / "models" / model
    return sorted((_read(path) for path in folder.glob("[0-9]*.json")), key=lambda version: version.number)


def models(store: Store) -> list[str]:
    """The names of the registered models."""
    return sorted({path.parent.name for path in (store.root / "models").glob("*/*.json")})


def _read(path: Path) -> ModelVersion:
    return ModelVersion(**json.loads(path.read_text()))
