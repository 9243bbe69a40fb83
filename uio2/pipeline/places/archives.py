"""Members of zip and tar archives, read where they lie: the list of members once, then ranges of bytes.

A zip ends with its list, so opening one costs two small reads wherever it is. A tar has none: its headers are walked
once per process, which on a remote store reads most of the file. A compressed tar (`.tar.gz`) cannot be read in the
middle and is refused. Nothing is unpacked, links lead nowhere, and what a member says of itself is checked: a name that
leaves the archive refuses the whole archive, a size out of proportion (a bomb) or a wrong checksum the member.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from typing import Any

from uio2.pipeline.places.ranges import Ranges, Window, open_ranges
from uio2.pipeline.stage import StageError

SUFFIXES = (".zip", ".tar")
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# A member that is read as a whole (a picture, a clip), bytes.
MOST_WHOLE = 1 << 30
# Unpacked above packed size of a member larger than a few megabytes; annotations in JSON reach 30.
MOST_RATIO = 200
_SMALL = 16 << 20
# Of a name and what tools put behind it, usually; more costs a second read.
_NAMES = 512
_STORED, _DEFLATED = 0, 8
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_LIST_AHEAD = 1 << 20
_HEADER_AHEAD = 64 << 10


class MemberError(OSError):
    """A member that cannot be read."""

    def __init__(self, text: str):
        super().__init__(errno.EIO, text)


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """Where a member lies: its zip header, or its bytes in a tar; its sizes; how packed; its CRC32, -1 in a tar."""

    offset: int
    size: int
    packed: int
    method: int
    crc: int


def members(ranges: Ranges, name: str) -> dict[str, Member]:
    """The regular files of an archive by name.

    Raises:
      StageError: it is no such archive, it is cut short, or a name in it leaves it.
    """
    try:
        found = _zip_members(ranges) if name.lower().endswith(".zip") else _tar_members(ranges)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, struct.error, OSError) as e:
        raise StageError(f"{name}: not a readable archive ({type(e).__name__}: {e}). Fetch it again") from e
    for member in found:
        parts = re.split(r"[/\\]", member)
        if ".." in parts or "\0" in member or parts[0] == "" or re.match(r"[A-Za-z]:", member):
            raise StageError(
                f"{name}: the name of a member, {member!r}, leads out of the archive; nothing of it is read. Get it "
                "from its publisher"
            )
    return {member.removeprefix("./"): where for member, where in found.items()}


def _zip_members(ranges: Ranges) -> dict[str, Member]:
    with zipfile.ZipFile(open_ranges(ranges, read_ahead=_LIST_AHEAD)) as archive:
        return {
            info.filename: Member(
                info.header_offset,
                info.file_size,
                info.compress_size,
                # Encrypted ones are members that no method reads.
                -1 if info.flag_bits & 1 else info.compress_type,
                info.CRC,
            )
            for info in archive.infolist()
            if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
        }


def _tar_members(ranges: Ranges) -> dict[str, Member]:
    found = {}
    with tarfile.open(fileobj=open_ranges(ranges, read_ahead=_HEADER_AHEAD), mode="r:") as archive:
        for info in archive:
            if info.isreg() and not info.issparse():
                found[info.name] = Member(info.offset_data, info.size, info.size, _STORED, -1)
            archive.members.clear()  # type: ignore[attr-defined]  # it keeps all headers otherwise
    return found


def read_member(ranges: Ranges, member: Member, name: str) -> bytes:
    """The bytes of a member.

    Raises:
      MemberError: too large or out of proportion, encrypted, packed by another method, cut short or damaged.
    """
    if member.size > MOST_WHOLE:
        raise MemberError(f"{name}: {member.size:,} bytes; at most {MOST_WHOLE:,} are read as one")
    _check(member, name)
    if member.crc < 0:
        data = ranges.read(member.offset, member.offset + member.size)
        if len(data) != member.size:
            raise MemberError(f"{name}: cut short, {len(data)} of {member.size} bytes")
        return data
    # Header and bytes in one read, for each may be a request.
    start = ranges.read(member.offset, member.offset + _LOCAL_HEADER.size + _NAMES + member.packed)
    at = _data_at(start, name)
    packed = start[at : at + member.packed]
    if len(packed) < member.packed:
        packed += ranges.read(member.offset + at + len(packed), member.offset + at + member.packed)
    return _unpacked(packed, member, name)


def open_member(ranges: Ranges, member: Member, name: str) -> io.BufferedReader:
    """A seekable file over a member; errors as of `read_member`, some only when the end is reached."""
    _check(member, name)
    if member.crc < 0:
        return open_ranges(Window(ranges, offset=member.offset, size=member.size))
    whole = _packed(ranges, member, name)
    return io.BufferedReader(_Unpacked(whole, member, name), buffer_size=1 << 20)


def _check(member: Member, name: str) -> None:
    if member.method not in (_STORED, _DEFLATED):
        how = "encrypted" if member.method < 0 else f"packed by method {member.method}"
        raise MemberError(f"{name}: {how}; expected a stored or deflated member")
    if member.size > _SMALL and member.size > MOST_RATIO * member.packed:
        raise MemberError(f"{name}: a bomb, {member.packed:,} bytes that claim to hold {member.size:,}")


def _packed(ranges: Ranges, member: Member, name: str) -> Window:
    """The packed bytes of a zip's member."""
    at = _data_at(ranges.read(member.offset, member.offset + _LOCAL_HEADER.size), name)
    return Window(ranges, offset=member.offset + at, size=member.packed)


def _data_at(head: bytes, name: str) -> int:
    """How far behind the start of a member's header, whose length varies, its bytes begin."""
    if len(head) < _LOCAL_HEADER.size or head[:4] != b"PK\x03\x04":
        raise MemberError(f"{name}: no member where the archive's list has it; the archive is damaged")
    *_, names, extra = _LOCAL_HEADER.unpack_from(head)
    return _LOCAL_HEADER.size + names + extra


def _unpacked(packed: bytes, member: Member, name: str) -> bytes:
    try:
        # One byte more than there should be is asked for, never more.
        inflate = zlib.decompressobj(-15)
        data = packed if member.method == _STORED else inflate.decompress(packed, member.size + 1)
    except zlib.error as e:
        raise MemberError(f"{name}: damaged ({e})") from e
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise MemberError(f"{name}: damaged, its bytes do not give its size and checksum")
    return data


class _Unpacked(io.RawIOBase):
    """A zip member, unpacked as it is read and checked against its CRC; going back starts again."""

    def __init__(self, packed: Window, member: Member, name: str):
        self._packed, self._member, self._name = packed, member, name
        self._begin()

    def _begin(self) -> None:
        self._inflate = zlib.decompressobj(-15) if self._member.method == _DEFLATED else None
        self._from, self._at, self._crc, self._tail = 0, 0, 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._member.size}[whence]
        if base + offset < self._at:
            self._begin()
        while self._at < base + offset and self.readinto(bytearray(min(1 << 20, base + offset - self._at))):
            pass
        return self._at

    def readall(self) -> bytes:
        parts, buffer = [], bytearray(1 << 20)
        while count := self.readinto(buffer):
            parts.append(bytes(buffer[:count]))
        return b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._member.size - self._at)
        if wanted <= 0:
            return 0
        try:
            data = self._next(wanted)
        except zlib.error as e:
            raise MemberError(f"{self._name}: damaged ({e})") from e
        if not data:
            raise MemberError(f"{self._name}: cut short, {self._at} of {self._member.size} bytes")
        buffer[: len(data)] = data
        self._at += len(data)
        self._crc = zlib.crc32(data, self._crc)
        if self._at == self._member.size and self._crc != self._member.crc:
            raise MemberError(f"{self._name}: damaged, its bytes do not give its checksum")
        return len(data)

    def _next(self, wanted: int) -> bytes:
        if self._inflate is None:
            data = self._packed.read(self._from, self._from + wanted)
            self._from += len(data)
            return data
        while True:
            if not self._tail:
                self._tail = self._packed.read(self._from, self._from + min(4 << 20, max(64 << 10, wanted)))
                self._from += len(self._tail)
            ended = not self._tail
            data = self._inflate.decompress(self._tail, wanted)
            self._tail = self._inflate.unconsumed_tail
            if data or ended or self._inflate.eof:
                return data
