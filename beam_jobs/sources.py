"""Where raw files are: the roots of a raw artifact by role, and names below a root that may not leave it.

Two kinds of raw artifact look alike here: one that holds its files (`digits-raw`) and one that points at the
user's files (`import`, with `roots.json`), which may lie on this machine or at a URL, in a folder or in an archive
(`uio2.pipeline.places`). An archive is a folder of its members; in a folder that holds zips (COCO as downloaded), so is
each of them.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace, Place, as_folder, place
from uio2.pipeline.places.place import forget, open_place
from uio2.pipeline.stage import StageError

ROOTS = "roots.json"
ROLES = ("images", "annotations", "vqa", "refer", "audio", "text", "video", "depth", "normals")


class PathEscape(Exception):
    """A name from an annotation that points outside its root."""


def roots(raw: Artifact) -> dict[str, AnyPlace]:
    """Existing folders, or single files, of a raw artifact by role (one of `ROLES`); an archive as its members."""
    listed = raw.path / ROOTS
    if not listed.exists():
        return {role: raw.path / role for role in ROLES if (raw.path / role).is_dir()}
    found = {role: place(where) for role, where in json.loads(listed.read_text()).items()}
    for role, there in found.items():
        forget(there)
        if not there.exists():
            raise StageError(f"{role} = {there}: it was imported but is gone; import it again")
    return {role: as_folder(there) for role, there in found.items()}


def opened(there: AnyPlace) -> AnyPlace:
    """The folder of an archive's members, listed anew; any other place as it is."""
    forget(there)
    folder = as_folder(there)
    if folder != there:
        forget(folder)
        folder.exists()
    return folder


def stored(there: AnyPlace) -> AnyPlace:
    """The file as it is stored: of a member, or of the folder of all members, the archive."""
    return place(there.root.removesuffix("!")) if isinstance(there, Place) and there.root.endswith("!") else there


def required(found: Mapping[str, AnyPlace], role: str, *, wanted_by: str) -> AnyPlace:
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
    if isinstance(place(root), Place):
        # What is not in the listing of the root is not there, so that nothing leads out of it.
        return f"{root.rstrip('/')}/{name}"
    path = os.path.join(root, name)
    real = os.path.realpath(path)
    base = _real(root)
    if real != base and not real.startswith(base + os.sep):
        raise PathEscape(f"{name!r} leads out of its folder")
    return path


@functools.lru_cache(maxsize=64)
def _real(root: str) -> str:
    return os.path.realpath(root)


def open_binary(path: str) -> BinaryIO:
    """Opens a file for reading, wherever it is; `.gz` is unpacked."""
    file = open_place(place(path))
    return cast(BinaryIO, _Unzipped(file)) if path.endswith(".gz") else file


class _Unzipped(gzip.GzipFile):
    """Closes the file below it too."""

    def __init__(self, packed: BinaryIO):
        super().__init__(fileobj=packed, mode="rb")
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()


def read_bytes(path: str) -> bytes:
    """All bytes of a file, wherever it is."""
    return place(path).read_bytes()


def read_range(path: str, *, offset: int, size: int) -> bytes:
    """A part of a file, and nothing besides; shorter at its end."""
    there = place(path)
    if isinstance(there, Place) and not there.root.endswith("!"):
        return there.ranges().read(offset, offset + size)
    with open_place(there) as file:
        file.seek(offset)
        return file.read(size)


def is_file(path: str) -> bool:
    """Whether a file is there; no name is too long to ask."""
    there = place(path)
    return there.is_file() if isinstance(there, Place) else os.path.isfile(path)


def is_dir(path: str) -> bool:
    """Whether a folder is there; no name is too long to ask."""
    there = place(path)
    return there.is_dir() if isinstance(there, Place) else os.path.isdir(path)


@contextlib.contextmanager
def on_disk(path: str) -> Iterator[str]:
    """The path of a file or folder on this machine: the path itself, or a copy that is removed afterwards."""
    there = place(path)
    if not isinstance(there, Place):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / there.name
        for file in there.walk_files():
            # Names come from listings, whose members cannot climb out of an archive; those of stores are checked here.
            target = copy if file == there else Path(member(str(copy), str(file.relative_to(there))))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
        yield str(copy)


def subfolders(root: AnyPlace) -> tuple[str, ...]:
    """Names of the folders directly below `root`, sorted, and of the folders directly in its zips."""
    if not root.is_dir():
        raise StageError(f"{root} is a file; expected the folder or archive that holds it and what it names")
    names = []
    for item in sorted(cast("Iterable[AnyPlace]", root.iterdir()), key=lambda p: p.name):
        if item.is_dir():
            names.append(item.name)
        elif _stands_for_members(item):
            inside = [f"{item.name}!/{folder.name}" for folder in Place(f"{item}!").iterdir() if folder.is_dir()]
            names += [*inside, f"{item.name}!"]
    return tuple(names)


def files(root: AnyPlace) -> Iterator[AnyPlace]:
    """All files below `root` as they are stored, in sorted order; `root` itself where it is a file."""
    if isinstance(root, Place):
        yield from root.walk_files()
        return
    if root.is_file():
        yield root
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            yield Path(folder) / name


def walk(root: AnyPlace) -> Iterator[AnyPlace]:
    """All files below `root`, in sorted order, with the members of a zip in place of the zip.

    A zip beside what it holds is just a file: whoever unpacked it wants nothing twice.
    """
    for file in files(root):
        if _stands_for_members(file):
            yield from Place(f"{file}!").walk_files()
        else:
            yield file


def name_below(there: AnyPlace, root: AnyPlace) -> str:
    """The path of a file of `walk(root)` below `root`; `FILE.zip!/member` for a member of a zip in it."""
    base = str(root).rstrip("/") + "/"
    if not str(there).startswith(base):
        raise ValueError(f"{there} is not below {root}")
    return str(there)[len(base) :]


def _stands_for_members(there: AnyPlace) -> bool:
    """Whether a file is a zip, and not one that lies unpacked beside itself."""
    inside = isinstance(there, Place) and there.root.endswith("!")
    if inside or there.suffix.lower() != ".zip" or not there.is_file():
        return False
    tops = {item.name for item in Place(f"{there}!").iterdir()}
    return not any((there.parent / top).exists() for top in tops)


def find_file(bases: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of `names` that is a file below one of the folders `bases`; None when there is none.

    Raises:
      PathEscape: a name points outside a base.
    """
    for name in names:
        for base in bases:
            path = member(base, name)
            if is_file(path):
                return path
    return None


def existing(bases: Sequence[str]) -> list[str]:
    """Those of `bases` that are folders. The shortest are looked at first: their listings serve for what is below."""
    there = {base for base in sorted(bases, key=len) if is_dir(base)}
    return [base for base in bases if base in there]
