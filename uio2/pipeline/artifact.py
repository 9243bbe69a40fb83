"""An artifact: a published directory, known by the digest of what it holds.

The record `artifact.json` is the publish marker: it is written last, and a directory without one does
not exist for any reader. Identity is content only; no path, host, date or hardware enters the digest.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RECORD = "artifact.json"
KINDS = ("raw", "dataset", "tokenizer", "mixture", "checkpoint", "predictions", "report", "model")
SOURCE = "source"  # the kind of files from outside the store, handed to a stage as an `Artifact` that has no record


class ArtifactError(Exception):
    """A record that is missing, unreadable or does not match the files beside it."""


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A published stage output.

    Attributes:
      kind: one of `KINDS`.
      name: `<pipeline>/<stage>`, for example `digits/train`.
      version: the recipe's version, a short string chosen by the author of the pipeline.
      uri: the directory that holds the files.
      digest: hex sha256 over the relative paths, sizes and contents of the files (`digest_directory`).
      fingerprint: hex sha256 of the recipe that made it.
      stats: figures the stage reported (counts, metrics); JSON values only.
    """

    kind: str
    name: str
    version: str
    uri: str
    digest: str
    fingerprint: str = ""
    stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The directory as a local path."""
        return Path(self.uri)


def canonical_json(value: Any) -> str:
    """One spelling for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest_rows(rows: Iterable[Sequence[Any]]) -> str:
    """Hex sha256 over sorted `[relative path, size, sha256]` rows: the digest of a directory."""
    return hashlib.sha256(canonical_json(sorted(list(row) for row in rows)).encode()).hexdigest()


def files_below(root: Path, *, volatile: Iterable[str] = ()) -> Iterator[tuple[str, Path]]:
    """Yields (relative posix path, path) of the files that count for the digest of `root`.

    `volatile` holds glob patterns over the relative path of files whose bytes vary between equal runs
    (time stamps, logs). The record itself never counts.
    """
    patterns = tuple(volatile)
    for folder, folders, files in os.walk(root):
        folders.sort()
        for file in sorted(files):
            path = Path(folder) / file
            relative = path.relative_to(root).as_posix()
            if relative != RECORD and not any(fnmatch.fnmatch(relative, p) for p in patterns):
                yield relative, path


def digest_directory(root: Path, *, volatile: Iterable[str] = ()) -> str:
    """Hex sha256 over sorted (relative path, size, sha256) of the files below `root` (see `files_below`)."""
    files = files_below(root, volatile=volatile)
    return digest_rows([relative, path.stat().st_size, file_sha256(path)] for relative, path in files)
