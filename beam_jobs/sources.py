"""Where raw files are: the roots of a raw artifact by role, and names below a root that may not leave it.

Two kinds of raw artifact look alike here: one that holds its files (`digits-raw`) and one that points at the
user's folders (`import`, with `roots.json`).
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import StageError

ROOTS = "roots.json"
ROLES = ("images", "annotations", "vqa", "refer", "audio", "text", "video", "depth", "normals")


class PathEscape(Exception):
    """A name from an annotation that points outside its root."""


def roots(raw: Artifact) -> dict[str, Path]:
    """Existing folders, or single files, of a raw artifact by role (one of `ROLES`)."""
    listed = raw.path / ROOTS
    if listed.exists():
        found = {role: Path(folder) for role, folder in json.loads(listed.read_text()).items()}
        for role, folder in found.items():
            if not folder.exists():
                raise StageError(f"{role} = {folder}: it was imported but is gone; import it again")
        return found
    return {role: raw.path / role for role in ROLES if (raw.path / role).is_dir()}


def required(found: Mapping[str, Path], role: str, *, wanted_by: str) -> Path:
    """The root of a role, or an error that says who wants it."""
    if role not in found:
        raise StageError(
            f"{wanted_by} needs {role!r} files, but the raw artifact has only {sorted(found)}; give --{role} DIR"
        )
    return found[role]


def member(root: str, name: str) -> str:
    """The absolute path of `name` below `root`.

    Raises:
      PathEscape: `name` is absolute, holds a NUL or a drive, climbs out, or leads out through a symbolic link.
    """
    if not name or "\0" in name or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        raise PathEscape(f"{name!r} is not a relative path")
    if ".." in re.split(r"[/\\]", name):
        raise PathEscape(f"{name!r} climbs out of its folder")
    path = os.path.join(root, name)
    real = os.path.realpath(path)
    base = _real(root)
    if real != base and not real.startswith(base + os.sep):
        raise PathEscape(f"{name!r} leads to {real}, outside {root}")
    return path


@functools.lru_cache(maxsize=64)
def _real(root: str) -> str:
    return os.path.realpath(root)


def open_binary(path: str) -> BinaryIO:
    """Opens a file for reading: local ones directly, others through Beam's filesystems; `.gz` is unpacked."""
    if "://" not in path:
        return cast(BinaryIO, gzip.open(path, "rb")) if path.endswith(".gz") else open(path, "rb")
    from apache_beam.io.filesystems import FileSystems

    return cast(BinaryIO, FileSystems.open(path))


def subfolders(root: Path) -> tuple[str, ...]:
    """Names of the folders directly below `root`, sorted."""
    if not root.is_dir():
        raise StageError(f"{root} is a file; expected the folder that holds it and what it names")
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir()))


def walk(root: Path) -> Iterator[Path]:
    """All files below `root`, in sorted order; `root` itself where it is a file."""
    if root.is_file():
        yield root
    for folder, folders, files in os.walk(root):
        folders.sort()
        for file in sorted(files):
            yield Path(folder) / file


def find_file(bases: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of `names` that is a file below one of the folders `bases`; None when there is none.

    Raises:
      PathEscape: a name points outside a base.
    """
    for name in names:
        for base in bases:
            path = member(base, name)
            if os.path.isfile(path):
                return path
    return None
