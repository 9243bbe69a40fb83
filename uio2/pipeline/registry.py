"""Model versions: `models/<name>/<n>.json` in the store, numbered from 1, one per checkpoint; and their aliases.

The file points at the artifact by name and fingerprint, which leads back to data through the records. `aliases.json`
beside it says which version is champion and which challenger. MLflow's model registry mirrors these files; this one
works without it. Every change is made under the model's lock and becomes visible by one rename.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uio2.pipeline.aliases import CHALLENGER, CHAMPION, Aliases
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import UsageError
from uio2.pipeline.store import Store, locked, write_json

ALIASES = "aliases.json"


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
      checkpoint: digest of the checkpoint that it stands for; "" where the artifact does not say.
      new: this call made it.
    """

    model: str
    number: int
    artifact: str
    fingerprint: str
    digest: str
    created: float
    checkpoint: str = ""
    new: bool = False


@dataclasses.dataclass(frozen=True)
class Entry:
    """What `enter` did: the version, the aliases now, and the alias this call gave it ("" if it changed nothing)."""

    version: ModelVersion
    aliases: Aliases
    given: str
    reason: str


def enter(store: Store, *, model: str, artifact: Artifact) -> Entry:
    """Registers a model artifact and carries out what it decided: champion or challenger.

    Safe from several processes and idempotent: what an artifact decided is carried out once, so that a cached stage
    run again after a rollback does not crown its version anew. The artifact's stats say what was decided:

      promoted: whether it is to be champion (true if absent).
      champion: digest of the checkpoint that it was compared with, "" if there was none; absent if it was compared
        with nothing. It becomes champion only if that is the champion still; compared with nothing, only if there is
        none, so that no pipeline run again with other settings takes the title unseen.
      reasons: sentences for the events.
      checkpoint: digest of the checkpoint; a version stands for one checkpoint, however often it is judged.
    """
    with locked(store, f"model-{model}"):
        aliases = read_aliases(store, model)
        version = _version_of(store, model, artifact)
        if aliases.knows(artifact.fingerprint):
            return Entry(version, aliases, "", "")
        promoted, reason = _verdict(store, version, aliases, artifact.stats)
        change = aliases.crowned if promoted else aliases.challenged
        changed = change(version.number, time=round(time.time(), 3), reason=reason, decision=artifact.fingerprint)
        _write_aliases(store, model, changed)
        alias = CHAMPION if promoted else CHALLENGER
        given = alias if alias in changed.of(version.number) and alias not in aliases.of(version.number) else ""
        return Entry(version, changed, given, reason)


def rollback(store: Store, model: str, *, to: int | None = None, reason: str = "") -> Aliases:
    """Makes an earlier version champion again: `to`, or the one before the present champion.

    Raises:
      UsageError: there is no such model or version, none came before, or it is the champion already.
    """
    with locked(store, f"model-{model}"):
        known = [version.number for version in versions(store, model)]
        if not known:
            raise UsageError(f"no model {model!r} in {store.root}; there are: {', '.join(models(store)) or 'none'}")
        aliases = read_aliases(store, model)
        number = aliases.predecessor() if to is None else to
        if number is None:
            raise UsageError(f"{model}@{aliases.champion} is the first champion of {model}: there is none to go back "
                             f"to; name a version with --to, one of {known}")  # fmt: skip
        if number not in known:
            raise UsageError(f"no version {number} of {model}; there are: {known}")
        if number == aliases.champion:
            raise UsageError(f"{model}@{number} is the champion already; name another version with --to")
        text = reason or f"rolled back from {aliases.champion}"
        changed = aliases.rolled_back(number, time=round(time.time(), 3), reason=text)
        _write_aliases(store, model, changed)
        return changed


def read_aliases(store: Store, model: str) -> Aliases:
    """The aliases of a model. Where none were ever written, each version took the title when it was registered."""
    path = store.root / "models" / model / ALIASES
    if path.exists():
        return Aliases.from_json(json.loads(path.read_text()))
    aliases = Aliases()
    for version in versions(store, model):
        aliases = aliases.crowned(version.number, time=version.created, reason="", decision=version.fingerprint)
    return aliases


def find_version(store: Store, model: str, version: str = "") -> ModelVersion | None:
    """The version of a number or an alias, the newest without either; None if there is none."""
    known = versions(store, model)
    if not version:
        return known[-1] if known else None
    wanted = str(read_aliases(store, model).names().get(version, version))
    return next((found for found in known if str(found.number) == wanted), None)


def versions(store: Store, model: str) -> list[ModelVersion]:
    """Every version of a model, in order."""
    folder = store.root / "models" / model
    return sorted((_read(path) for path in folder.glob("[0-9]*.json")), key=lambda version: version.number)


def models(store: Store) -> list[str]:
    """The names of the registered models."""
    return sorted({path.parent.name for path in (store.root / "models").glob("*/[0-9]*.json")})


def references(store: Store) -> list[str]:
    """Everything a model can be asked for by: `digits@1`, ..., `digits@champion`."""
    found = []
    for model in models(store):
        found += [f"{model}@{version.number}" for version in versions(store, model)]
        found += [f"{model}@{alias}" for alias in read_aliases(store, model).names()]
    return found


def _version_of(store: Store, model: str, artifact: Artifact) -> ModelVersion:
    """The version of this artifact or its checkpoint, a new one if there is none. Call it under the lock."""
    known = versions(store, model)
    checkpoint = str(artifact.stats.get("checkpoint", ""))
    for version in known:
        if version.fingerprint == artifact.fingerprint or (checkpoint and version.checkpoint == checkpoint):
            return version
    number = max((version.number for version in known), default=0) + 1
    fields: dict[str, Any] = {
        "model": model,
        "number": number,
        "artifact": artifact.name,
        "fingerprint": artifact.fingerprint,
        "digest": artifact.digest,
        "created": round(time.time(), 3),
        "checkpoint": checkpoint,
    }
    if not known:
        _write_aliases(store, model, Aliases())  # a kill between the two files leaves a version without a title
    write_json(store.folder("models", model) / f"{number}.json", fields)
    return ModelVersion(**fields, new=True)


def _verdict(store: Store, version: ModelVersion, aliases: Aliases, stats: Mapping[str, Any]) -> tuple[bool, str]:
    model = version.model
    reasons = "; ".join(stats.get("reasons", ()))
    if not stats.get("promoted", True):
        return False, reasons
    if "champion" in stats:
        found = _champions_checkpoint(store, model)
        if found != stats["champion"]:
            compared = f"checkpoint {stats['champion'][:12]}" if stats["champion"] else "no champion"
            now = f"{model}@{aliases.champion}"
            return False, f"it was compared with {compared}, and {now} is champion now: judge it again; {reasons}"
    elif aliases.champion not in (None, version.number):
        told = f"it was not compared with {model}@{aliases.champion}, the champion; `uio2 promote` does that"
        return False, "; ".join(filter(None, [told, reasons]))
    return True, reasons


def _champions_checkpoint(store: Store, model: str) -> str:
    """Digest of the checkpoint of the champion, "" if there is none."""
    version = find_version(store, model, CHAMPION)
    if version is None or version.checkpoint:
        return version.checkpoint if version else ""
    made = store.find(version.fingerprint, name=version.artifact)  # a version file from before they said it
    return str(made.stats.get("checkpoint", "")) if made else ""


def _write_aliases(store: Store, model: str, aliases: Aliases) -> None:
    write_json(store.folder("models", model) / ALIASES, aliases.to_json())


def _read(path: Path) -> ModelVersion:
    return ModelVersion(**json.loads(path.read_text()))
