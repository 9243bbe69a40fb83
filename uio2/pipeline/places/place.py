"""`Place`: what `pathlib.Path` is for local files, for files on a store and for members of archives.

Files below a root come from one listing, kept per process: looking for an image that may have several names asks the
store nothing, and a name that is not in the listing is not a file, so none leads out of the root.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from uio2.pipeline.places import archives, remote
from uio2.pipeline.places.ranges import LocalRanges, Ranges, open_ranges
from uio2.pipeline.stage import StageError

_MEMBER = re.compile(r"(.*?\.(?:zip|tar)!)(?:/(.*))?", re.I | re.S)


class Tree(Protocol):
    """Files below a root, by relative name."""

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def ranges(self, name: str) -> Ranges: ...

    def open(self, name: str) -> BinaryIO: ...

    def read(self, name: str) -> bytes: ...


class RemoteTree:
    """Files below a URL; {"": size} where it is one file."""

    def __init__(self, url: str):
        self._url = url
        self.entries = remote.listing(url)
        self.sizes = {name: entry.size for name, entry in self.entries.items()}

    def url(self, name: str) -> str:
        """The address of a file."""
        quoted = urllib.parse.quote(name) if remote.scheme_of(self._url) == "https" else name
        return f"{self._url.rstrip('/')}/{quoted}" if name else self._url

    def ranges(self, name: str) -> Ranges:
        return remote.RemoteRanges(self.url(name), size=self.sizes[name])

    def open(self, name: str) -> BinaryIO:
        return open_ranges(self.ranges(name))

    def read(self, name: str) -> bytes:
        return self.ranges(name).read(0, self.sizes[name])


class ArchiveTree:
    """Members of an archive."""

    def __init__(self, path: str):
        self._path = path
        there = place(path)
        self._ranges = there.ranges() if isinstance(there, Place) else LocalRanges(path)
        self._members = archives.members(self._ranges, path)
        self.sizes = {name: member.size for name, member in self._members.items()}

    def ranges(self, name: str) -> Ranges:
        raise StageError(f"{self._path}!/{name}: an archive in an archive; unpack the outer one")

    def open(self, name: str) -> BinaryIO:
        return archives.open_member(self._ranges, self._members[name], name)

    def read(self, name: str) -> bytes:
        return archives.read_member(self._ranges, self._members[name], name)


_trees: dict[str, Tree] = {}
# An archive lists what it lies in while it is listed itself.
_lock = threading.RLock()


def tree_of(root: str, *, fresh: bool = False) -> Tree:
    """The files below a root; listed once per process unless `fresh`."""
    with _lock:
        if fresh or root not in _trees:
            _trees[root] = ArchiveTree(root.removesuffix("!")) if root.endswith("!") else RemoteTree(root)
            _folders.cache_clear()
        return _trees[root]


def forget(there: AnyPlace) -> None:
    """Has what a place is part of, and the archives in it, listed anew when they are next asked for."""
    if isinstance(there, Place) and there.root.endswith("!"):
        forget(place(there.root.removesuffix("!")))
    base = there.root if isinstance(there, Place) else str(there)
    with _lock:
        for root in [root for root in _trees if root.startswith(base)]:
            del _trees[root]
        _folders.cache_clear()


@functools.lru_cache(maxsize=64)
def _folders(root: str) -> frozenset[str]:
    found = set()
    for name in tree_of(root).sizes:
        while "/" in name:
            name = name.rpartition("/")[0]
            found.add(name)
    return frozenset(found)


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """A file or folder below a root that is not on this machine's file system.

    Attributes:
      root: a URL, or the path or URL of an archive followed by `!`.
      inner: the path below it; "" is the root itself.
    """

    root: str
    inner: str = ""

    def __str__(self) -> str:
        return f"{self.root.rstrip('/')}/{self.inner}" if self.inner else self.root

    def __truediv__(self, name: str) -> Place:
        return Place(self.root, f"{self.inner}/{name}" if self.inner else name)

    @property
    def name(self) -> str:
        return (self.inner or self.root.removesuffix("!").rstrip("/")).rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> Place:
        if self.inner:
            return Place(self.root, self.inner.rpartition("/")[0])
        return Place(self.root.rstrip("/").rpartition("/")[0])

    def with_name(self, name: str) -> AnyPlace:
        """A file beside this one."""
        if self.inner:
            folder, slash, _ = self.inner.rpartition("/")
            return Place(self.root, f"{folder}{slash}{name}")
        return place(f"{self.root.rpartition('/')[0]}/{name}")

    def with_suffix(self, suffix: str) -> AnyPlace:
        """The same name with another suffix."""
        return self.with_name(self.stem + suffix)

    def relative_to(self, other: AnyPlace | str) -> PurePosixPath:
        """The path below `other`; ValueError where it is not below it."""
        base = str(other).rstrip("/") + "/"
        if not str(self).startswith(base):
            raise ValueError(f"{self} is not below {other}")
        return PurePosixPath(str(self)[len(base) :])

    def is_file(self) -> bool:
        return self.inner in tree_of(self.root).sizes

    def is_dir(self) -> bool:
        return (not self.inner and not self.is_file()) or self.inner in _folders(self.root)

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[Place]:
        """What lies directly in this folder, sorted."""
        base = f"{self.inner}/" if self.inner else ""
        names = {n[len(base) :].partition("/")[0] for n in tree_of(self.root).sizes if n.startswith(base)}
        return (self / name for name in sorted(names))

    def walk_files(self) -> Iterator[Place]:
        """All files at or below, folder by folder as `os.walk` goes with sorted names."""
        base = f"{self.inner}/" if self.inner else ""
        if self.is_file():
            yield self
            return
        names = [n for n in tree_of(self.root).sizes if n.startswith(base)]
        for name in sorted(names, key=_walk_order):
            yield Place(self.root, name)

    def ranges(self) -> Ranges:
        """Its bytes, read piece by piece."""
        self._check()
        return tree_of(self.root).ranges(self.inner)

    def open(self, mode: str = "rb") -> BinaryIO:
        """Opens it for reading bytes."""
        if mode != "rb":
            raise ValueError(f"mode {mode!r}: sources are read as bytes")
        self._check()
        return tree_of(self.root).open(self.inner)

    def read_bytes(self) -> bytes:
        self._check()
        return tree_of(self.root).read(self.inner)

    def _check(self) -> None:
        if not self.is_file():
            raise FileNotFoundError(2, "no such file", str(self))


def _walk_order(name: str) -> list[tuple[int, str]]:
    """The files of a folder come before those of its folders."""
    *folders, file = name.split("/")
    return [*((1, folder) for folder in folders), (0, file)]


AnyPlace = Path | Place


def place(text: str) -> AnyPlace:
    """The place that a text names; nothing is asked of any store."""
    if "!" in text and (member := _MEMBER.fullmatch(text)):
        return Place(member[1], member[2] or "")
    if not remote.is_remote(text):
        return Path(text)
    # A folder's listing serves for what is below it.
    for root in sorted(_trees, key=len):
        base = root.rstrip("/") + "/"
        if text.startswith(base) and not root.endswith("!") and "" not in _trees[root].sizes:
            return Place(root, text[len(base) :].strip("/"))
    return Place(text if remote.scheme_of(text) == "https" else text.rstrip("/"))


def is_archive(name: str) -> bool:
    """Whether a file of this name is read as a folder."""
    return name.lower().endswith(archives.SUFFIXES)


def as_folder(there: AnyPlace) -> AnyPlace:
    """The members of an archive, or the place itself where it is none.

    Raises:
      StageError: a compressed tar.
    """
    if there.name.lower().endswith(archives.PACKED):
        raise StageError(f"{there}: a compressed tar can only be read from its start; unpack it, or make a zip of it")
    if is_archive(there.name) and not str(there).endswith("!") and there.is_file():
        return Place(f"{there}!")
    return there


def size_of(there: AnyPlace) -> int:
    """Bytes of a file."""
    return tree_of(there.root).sizes[there.inner] if isinstance(there, Place) else os.stat(there).st_size


def open_place(there: AnyPlace) -> BinaryIO:
    """Opens a file for reading bytes."""
    return there.open("rb") if isinstance(there, Place) else open(there, "rb")
