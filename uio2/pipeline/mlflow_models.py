"""Registered models in MLflow: versions, aliases, and tags that lead from a version back to all it was made of."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.tracking import MlflowClient

from uio2.pipeline import registry
from uio2.pipeline.aliases import CHALLENGER, CHAMPION, Aliases
from uio2.pipeline.artifact import SOURCE
from uio2.pipeline.mlflow_parents import fit_key
from uio2.pipeline.store import Record, Store, write_json

SERVED_BY = "uio2.evaluate.serving"  # imported by MLflow where the model is loaded
SERVED = "served.json"
# What a request and an answer hold, for `Answerer.predict`.
REQUEST = [
    {"type": "string", "name": "text", "required": True},
    {"type": "string", "name": "image", "required": False},
    {"type": "string", "name": "task", "required": False},
]
NUMBERS = {"type": "array", "items": {"type": "double"}, "required": True}
ANSWER = [
    {"type": "string", "name": "text", "required": True},
    {"type": "array", "items": NUMBERS, "name": "boxes", "required": True},
]
DATA = ("raw", "dataset", SOURCE)


class RegisteredModels:
    """Mirrors the registry of one store."""

    def __init__(self, store: Store, *, client: MlflowClient, run_of: Callable[[Record], str]):
        """`run_of` gives the run of a record."""
        self._store = store
        self._client = client
        self._run_of = run_of
        self._marks = store.folder("cache", "mlflow")

    def reconcile(self) -> None:
        """Makes what is missing: versions in order, then the aliases."""
        for model in registry.models(self._store):
            for version in registry.versions(self._store, model):
                self._version(version)
            self._aliases(model, registry.read_aliases(self._store, model))

    def _version(self, version: registry.ModelVersion) -> None:
        name = f"{version.model}@{version.number}"
        mark = self._marks / name
        found = self._store.newest(version.artifact, version=version.fingerprint)
        if mark.exists() or not found:
            return
        record, path = found
        if not self._client.search_registered_models(f"name = '{version.model}'"):
            self._client.create_registered_model(version.model)
        known = self._client.search_model_versions(f"name = '{version.model}'")
        if not any(v.tags.get("uio2.fingerprint") == version.fingerprint for v in known):
            self._client.create_model_version(
                version.model,
                source=self._served(name, record, path).as_uri(),
                run_id=self._run_of(record),
                tags={
                    "uio2.fingerprint": version.fingerprint,
                    "uio2.digest": version.digest,
                    "uio2.version": name,
                    **{f"uio2.parent.{key}": value["digest"] for key, value in record["inputs"].items()},
                    **_data(self._store, record),
                },
            )
        mark.touch()

    def _served(self, name: str, record: Record, path: Path) -> Path:
        """The folder that MLflow loads a version from: where its parts lie, no copy of them.

        A model that was not trained on a mixture answers no requests; MLflow is given its artifact then.
        """
        train = self._input(record, "train")
        parts = {key: self._input(train[0], key) for key in ("mixture", "tokenizer")} if train else {}
        if train is None or None in parts.values():
            return path
        places = {"checkpoint": train[1]} | {key: found[1] for key, found in parts.items() if found}
        folder = self._store.folder("mlflow-models", *name.split("@"))
        write_json(folder / SERVED, {"model": name} | {key: str(place) for key, place in places.items()})
        write_json(folder / "MLmodel", _mlmodel())  # YAML, of which JSON is a part
        return folder

    def _input(self, record: Record, key: str) -> tuple[Record, Path] | None:
        value = record["inputs"].get(key)
        if value is None or value["kind"] == SOURCE:
            return ({}, Path(value["path"])) if value else None
        return self._store.newest(value["name"], version=value["fingerprint"])

    def _aliases(self, model: str, aliases: Aliases) -> None:
        mark, wanted = self._marks / f"{model}.aliases", aliases.names()
        if mark.exists() and json.loads(mark.read_text()) == aliases.state():
            return
        known = self._client.search_model_versions(f"name = '{model}'")
        numbers = {v.tags.get("uio2.version"): v.version for v in known}  # MLflow counts by itself
        for alias in (CHAMPION, CHALLENGER):
            mirrored = numbers.get(f"{model}@{wanted[alias]}") if alias in wanted else None
            if mirrored is not None:
                self._client.set_registered_model_alias(model, alias, mirrored)
            elif known and alias in self._client.get_registered_model(model).aliases:
                self._client.delete_registered_model_alias(model, alias)
        for event in aliases.events:
            if (mirrored := numbers.get(f"{model}@{event.number}")) is not None:
                said = f"{event.kind}: {event.reason}"[:4000]
                self._client.set_model_version_tag(model, mirrored, "uio2.decision", said)
        mark.write_text(json.dumps(aliases.state()))


def _mlmodel() -> dict[str, Any]:
    flavor = {"loader_module": SERVED_BY, "data": SERVED, "python_version": platform.python_version()}
    return {
        "flavors": {"python_function": flavor},
        "mlflow_version": mlflow.__version__,
        "signature": {"inputs": json.dumps(REQUEST), "outputs": json.dumps(ANSWER), "params": None},
    }


def _data(store: Store, record: Record) -> dict[str, str]:
    """A tag for each dataset, raw folder and source that a model was made from, however far up.

    A name that it was made from in several states (by the checkpoint it began with) has them all, the nearest first.
    The champion that it was compared with is no part of it.
    """
    seen: set[str] = set()
    found: dict[str, list[str]] = {}
    waiting = [value for key, value in record["inputs"].items() if key != CHAMPION]
    while waiting:
        value = waiting.pop(0)
        if value["digest"] in seen:
            continue
        seen.add(value["digest"])
        if value["kind"] in DATA:
            found.setdefault(f"uio2.data.{fit_key(value['name'])}", []).append(value["digest"])
        above = None if value["kind"] == SOURCE else store.newest(value["name"], version=value["fingerprint"])
        waiting += above[0]["inputs"].values() if above else ()
    return {key: " ".join(digests) for key, digests in found.items()}
