"""The store: a directory that holds every published artifact, found again by fingerprint or by name.

    <root>/artifacts/<name>/<fp16>/        published: files and `artifact.json`
    <root>/.tmp/<fp16>-<attempt>/          one attempt: `out/` becomes the artifact, the rest is thrown away
    <root>/.work/<fp16>/                   resumable scratch of a stage, kept over kills, removed after publishing
    <root>/locks/ logs/ cache/ runs/ models/

`fp16` is the first 16 hex digits of the fingerprint; the full one is in the record. Publishing writes the
record into the attempt (last, after every file is on disk) and renames the directory: one rename makes files
and record visible together, so a kill at any moment leaves either nothing or all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uio2.pipeline.artifact import RECORD, Artifact, ArtifactError, digest_directory
from uio2.pipeline.lease import Lease
from uio2.pipeline.stage import StageError

SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*/[A-Za-z0-9_][A-Za-z0-9_.+-]*")
KEY = re.compile(r"[0-9a-f]{16}")
Record = dict[str, Any]


def default_root() -> Path:
    """`UIO2_HOME`, else `./.uio2`, as an absolute path."""
    return Path(os.environ.get("UIO2_HOME") or ".uio2").expanduser().absolute()


class Store:
    """A local store. Constructing one touches nothing; `prepare` makes the folders and checks that they take files."""

    def __init__(self, root: str | os.PathLike[str] | None = None):
        text = os.fspath(root) if root else str(default_root())
        if "://" in text:
            raise StageError(f"store {text!r}: only local folders are supported; give a path by --store or UIO2_HOME")
        self.root = Path(text).expanduser().absolute()

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def folder(self, *parts: str) -> Path:
        """A folder below the root, made if missing. Parts that lead out of the store are refused."""
        path = self.root.joinpath(*parts)
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise StageError(f"path {path} leaves the store {self.root}")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def prepare(self) -> Store:
        """Makes the folders; raises StageError naming the store and the fix if it cannot be written."""
        try:
            for name in ("artifacts", ".tmp", ".work", "locks", "logs", "cache", "runs", "models"):
                self.folder(name)
            probe = self.root / f".probe-{secrets.token_hex(4)}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise StageError(
                f"store {self.root} is not writable ({error.strerror or error}); make it writable or choose another "
                "folder with --store DIR or UIO2_HOME=DIR"
            ) from error
        return self

    # Reading

    def artifact_path(self, name: str, fingerprint: str) -> Path:
        """Where the artifact `name` with this fingerprint is or would be."""
        return self.root / "artifacts" / checked_name(name) / fingerprint[:16]

    def find(self, fingerprint: str, *, name: str | None = None) -> Artifact | None:
        """The published artifact with this full fingerprint, looked for under `name` first; None if there is none."""
        candidates = [self.artifact_path(name, fingerprint)] if name else []
        for path in candidates or sorted((self.root / "artifacts").glob(f"*/*/{fingerprint[:16]}")):
            record = read_record(path)
            if record and record["fingerprint"] == fingerprint:
                return artifact_of(record, path)
        return self.find(fingerprint) if name else None

    def records(self, *, name: str | None = None) -> list[tuple[Record, Path]]:
        """Every published (record, directory), oldest first; of one artifact name if given."""
        folder = self.root / "artifacts"
        pattern = f"{checked_name(name)}/*/{RECORD}" if name else f"*/*/*/{RECORD}"
        found = [(record, path.parent) for path in folder.glob(pattern) if (record := read_record(path.parent))]
        return sorted(found, key=lambda item: (item[0]["created"], item[0]["fingerprint"]))

    def newest(self, name: str, *, version: str | None = None) -> tuple[Record, Path] | None:
        """The newest (record, directory) of a name; `version` is a recipe version or the start of a fingerprint."""
        found = self.records(name=name)
        if version:
            matches = [item for item in found if item[0]["version"] == version]
            prefix = version if len(version) >= 4 else "-"
            found = matches or [item for item in found if item[0]["fingerprint"].startswith(prefix)]
        return found[-1] if found else None

    # Writing

    def lease(self, fingerprint: str) -> Lease:
        """The right to run the stage with this fingerprint; not yet taken."""
        return Lease(self.folder("locks") / f"{fingerprint[:16]}.lock")

    def new_attempt(self, fingerprint: str) -> Path:
        """A fresh attempt directory with an empty `out/`. Call it under the lease: dead attempts are removed."""
        self._remove_attempts(fingerprint[:16])
        attempt = self.folder(".tmp") / f"{fingerprint[:16]}-{secrets.token_hex(4)}"
        (attempt / "out").mkdir(parents=True)
        (attempt / "tmp").mkdir()
        return attempt

    def work(self, fingerprint: str) -> Path:
        """The resumable scratch of a fingerprint."""
        return self.folder(".work", fingerprint[:16])

    def publish(self, attempt: Path, *, name: str, record: Mapping[str, Any], volatile: tuple[str, ...]) -> Artifact:
        """Makes `attempt/out` the artifact `name`; `record` must hold `fingerprint`, `kind` and `version`.

        Raises StageError if the output is empty or holds a link. Call it under the lease.
        """
        out = attempt / "out"
        _sync_files(out)
        target = self.artifact_path(name, record["fingerprint"])
        full = {
            "schema": SCHEMA,
            "name": name,
            "digest": digest_directory(out, volatile=volatile),
            "volatile": list(volatile),
            "created": round(time.time(), 3),
            **record,
        }
        write_json(out / RECORD, full)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # a directory that lost its record: not published, in the way
            target.rename(attempt / "replaced")
        out.rename(target)
        _sync_folder(target.parent)
        shutil.rmtree(attempt, ignore_errors=True)
        shutil.rmtree(self.root / ".work" / record["fingerprint"][:16], ignore_errors=True)
        return artifact_of(full, target)

    def sweep(self) -> list[str]:
        """Removes attempts whose runner is dead, and scratch whose artifact is published; returns what it removed."""
        removed = []
        keys = {path.name[:16] for folder in (".tmp", ".work") for path in self.folder(folder).iterdir()}
        for key in sorted(filter(KEY.fullmatch, keys)):
            lease = self.lease(key)
            if not lease.try_acquire():
                continue
            with lease:
                removed += self._remove_attempts(key)
                work = self.root / ".work" / key
                if work.exists() and any((self.root / "artifacts").glob(f"*/*/{key}/{RECORD}")):
                    shutil.rmtree(work, ignore_errors=True)
                    removed.append(f".work/{key}")
        return removed

    def _remove_attempts(self, key: str) -> list[str]:
        removed = []
        for path in self.folder(".tmp").glob(f"{key}-*"):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(f".tmp/{path.name}")
        return removed


def checked_name(name: str) -> str:
    """The artifact name if it is `<pipeline>/<stage>` in plain characters; StageError otherwise (`..`, absolute)."""
    if not NAME.fullmatch(name):
        raise StageError(f"artifact name {name!r}: expected PIPELINE/STAGE of letters, digits and _ . + -")
    return name


def read_record(path: Path) -> Record | None:
    """The record of a directory; None where there is none; ArtifactError where it cannot be read as one."""
    try:
        text = (path / RECORD).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        record = json.loads(text)
        if record["schema"] != SCHEMA:
            raise ArtifactError(f"{path / RECORD} has schema {record['schema']}, this version reads {SCHEMA}")
        missing = {"name", "kind", "version", "digest", "fingerprint", "inputs"} - record.keys()
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path / RECORD} is not a record ({error}); remove {path} and run again") from error
    if missing:
        raise ArtifactError(f"{path / RECORD} lacks {sorted(missing)}; remove {path} and run again")
    return record


def artifact_of(record: Mapping[str, Any], path: Path) -> Artifact:
    """The record as an `Artifact` whose uri is where it lies now."""
    keys = ("kind", "name", "version", "digest", "fingerprint")
    return Artifact(uri=str(path), stats=record.get("stats", {}), **{key: record[key] for key in keys})


def write_json(path: Path, value: Any) -> None:
    """Writes JSON through a temporary file, on disk before it is visible under `path`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(temporary, "w") as f:
        json.dump(value, f, indent=1, sort_keys=True, allow_nan=False)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


@contextlib.contextmanager
def locked(store: Store, name: str) -> Iterator[None]:
    """Holds the store-wide lock `name` (short critical sections such as creating a database)."""
    lease = Lease(store.folder("locks") / f"{name}.lock")
    lease.acquire()
    with lease:
        yield


def _sync_files(out: Path) -> None:
    """Puts every file on disk; refuses links (they would lead out of the artifact) and an empty output."""
    count = 0
    for folder, folders, files in os.walk(out):
        for name in (*folders, *files):
            path = Path(folder) / name
            if path.is_symlink():
                raise StageError(f"output {path.relative_to(out)} is a link to {os.readlink(path)}; write a real file")
        for name in files:
            count += 1
            with open(Path(folder) / name, "rb") as f:
                os.fsync(f.fileno())
        _sync_folder(Path(folder))
    if not count:
        raise StageError("the stage wrote no file into its output; a published artifact holds at least one")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
