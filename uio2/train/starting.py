"""The checkpoint a recipe starts from, by whatever name it is given, with the tokenizer that belongs to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from uio2.model.checkpoint import hub, layouts
from uio2.model.checkpoint.tree import CheckpointError
from uio2.pipeline import lineage
from uio2.pipeline.stage import UsageError
from uio2.pipeline.store import Record, Store, read_record

TOKENIZER = "tokenizer.model"


@dataclasses.dataclass(frozen=True)
class Start:
    """A checkpoint that was found.

    Attributes:
      source: what a stage takes as its input: the folder of an artifact, or of the checkpoint itself.
      checkpoint: folder and layout.
      tokenizer: the tokenizer it was trained with, a file or the folder of an artifact; None where that is not known.
    """

    source: Path
    checkpoint: layouts.Checkpoint
    tokenizer: Path | None = None


def find_start(reference: str, *, store: Store) -> Start:
    """The checkpoint behind a folder, `MODEL[@N]`, `PIPELINE/STAGE[@VERSION]` or a repository of the hub.

    Raises:
      UsageError: there is none; the message says what was looked for.
    """
    folder = Path(reference).expanduser()
    try:
        if folder.is_dir():
            return _in_folder(folder, store=store)
        try:
            return _in_store(*lineage.resolve(store, reference), store=store)
        except UsageError as error:
            if "/" not in reference or "@" in reference:
                raise UsageError(f"{reference!r} is no folder, and {error}") from error
            found = hub.resolve(reference)
            return Start(found, layouts.find(found))
    except CheckpointError as error:
        raise UsageError(f"checkpoint {reference!r}: {error}") from error


def _in_folder(folder: Path, *, store: Store) -> Start:
    if record := read_record(folder):
        return _in_store(record, folder, store=store)
    found = layouts.find(folder)
    beside = [place / TOKENIZER for place in (found.folder, folder) if (place / TOKENIZER).is_file()]
    return Start(found.folder, found, beside[0] if beside else None)


def _in_store(record: Record, folder: Path, *, store: Store) -> Start:
    if record["kind"] == "model":  # a registered version names the checkpoint that passed
        record, folder = _input(record, "train", store=store)
    if record["kind"] != "checkpoint":
        raise UsageError(f"{record['name']}@{record['version']} is a {record['kind']}; expected a checkpoint or model")
    tokenizer = None
    if "tokenizer" in record["inputs"]:
        given = record["inputs"]["tokenizer"]
        tokenizer = Path(given["path"]) if "path" in given else _input(record, "tokenizer", store=store)[1]
    return Start(folder, layouts.find(folder), tokenizer)


def _input(record: Record, name: str, *, store: Store) -> tuple[Record, Path]:
    given = record["inputs"][name]
    found = store.newest(given["name"], version=given["fingerprint"])
    if found is None:
        raise UsageError(
            f"{record['name']}: its {name} {given['name']} {given['fingerprint'][:12]} is not in the store"
        )
    return found
