"""Files that workers leave for the build: on this machine's disk, or below a URL that all workers reach.

A file appears whole or not at all: by rename on a disk, at the end of its upload on a store.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from uio2.pipeline.places import is_remote
from uio2.pipeline.places.remote import file_system, scheme_of
from uio2.pipeline.stage import UsageError

# Stores that are written to.
SCHEMES = ("gs", "s3")


def check_writable(url: str, *, what: str = "work") -> str:
    """The URL without a slash at its end.

    Raises:
      UsageError: nothing is written there.
    """
    if not is_remote(url) or scheme_of(url) not in SCHEMES:
        raise UsageError(f"{what} = {url}: expected a place that every worker can write to, gs:// or s3://")
    return url.rstrip("/")


@contextmanager
def writer(path: str) -> Iterator[BinaryIO]:
    """A file to write; it is there, complete, once the block ends without an error."""
    if is_remote(path):
        files, name = _at(path)
        with files.open(name, "wb") as file:
            try:
                yield file
            except BaseException:
                file.discard()
                # Closing it would publish what came before the error.
                file.closed = True
                raise
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read(path: str) -> bytes | None:
    """The bytes of a file, None if there is none."""
    try:
        if is_remote(path):
            files, name = _at(path)
            return files.cat_file(name)
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None


def exists(path: str) -> bool:
    """Whether a file is there."""
    if is_remote(path):
        files, name = _at(path)
        return files.exists(name)
    return os.path.exists(path)


def clear(url: str, *, keep: str) -> None:
    """Removes what an earlier attempt left below a URL, but for the folder `keep`."""
    files, base = _at(url)
    for name in _names(files, base):
        if not name.startswith(f"{base}/{keep}/"):
            files.rm_file(name)


def fetch(url: str, folder: Path) -> None:
    """Copies what lies below a URL into a local folder; a file whose size is there already stays as it is."""
    files, base = _at(url)
    for name, info in _names(files, base).items():
        target = folder / name[len(base) + 1 :]
        if target.exists() and target.stat().st_size == info["size"] and target.suffix not in (".json", ".jsonl"):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex}")
        with files.open(name, "rb") as source, open(temporary, "wb") as copy:
            shutil.copyfileobj(source, copy, 4 << 20)
        os.replace(temporary, target)


def remove(url: str) -> None:
    """Removes everything below a URL."""
    files, base = _at(url)
    for name in _names(files, base):
        files.rm_file(name)


def _at(url: str) -> tuple[Any, str]:
    return file_system(scheme_of(url)), url.partition("://")[2]


def _names(files: Any, base: str) -> dict[str, Any]:
    files.invalidate_cache()
    try:
        found = files.find(base, detail=True)
    except FileNotFoundError:
        return {}
    return {name: info for name, info in found.items() if info["type"] == "file" and name.startswith(f"{base}/")}
