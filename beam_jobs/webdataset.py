"""WebDataset tars: samples are neighbouring members of one name, `0001.jpg`, `0001.txt`, `0001.json`.

Only where an image lies in the tar goes through the pipeline; its bytes are read there when they are written. Nothing
is unpacked, so the names of members lead nowhere.
"""

from __future__ import annotations

import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs.dead_letters import BadRecord
from beam_jobs.sources import open_binary, read_range
from uio2.pipeline.stage import StageError


def rows(path: str, *, images: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any] | BadRecord]]:
    """A row per sample: the members' texts by column, and `#image`, `#offset`, `#size` of its picture.

    Args:
      path: an uncompressed tar.
      images: suffixes of pictures.

    Raises:
      StageError: it is no such tar, or is cut short.
    """
    try:
        with open_binary(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = (member for member in tar if member.isfile())
            for index, (name, group) in enumerate(itertools.groupby(members, key=_stem)):
                yield index, _sample(tar, name, list(group), images)
    except (tarfile.TarError, EOFError, OSError) as e:
        raise StageError(f"{path}: not a readable tar ({e}); expected an uncompressed WebDataset tar") from e


def read_member(path: str, *, offset: int, size: int) -> bytes:
    """The bytes of a member.

    Raises:
      BadRecord: `cut_short`.
    """
    data = read_range(path, offset=offset, size=size)
    if len(data) < size:
        raise BadRecord("cut_short", f"{len(data)} of {size} bytes are in the tar")
    return data


def _stem(member: tarfile.TarInfo) -> str:
    folder, slash, name = member.name.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _sample(
    tar: tarfile.TarFile, name: str, members: Sequence[tarfile.TarInfo], images: Sequence[str]
) -> Mapping[str, Any] | BadRecord:
    row: dict[str, Any] = {}
    for member in members:
        suffix = member.name.removeprefix(name).lower()
        if suffix in images:
            row |= {"#image": member.name, "#offset": member.offset_data, "#size": member.size}
        elif suffix in (".txt", ".caption", ".json"):
            found = _texts(tar, member, suffix)
            if isinstance(found, BadRecord):
                return found
            row = {**found, **row}
    return row if "#image" in row else BadRecord("image_missing", f"{name}: no {', '.join(images)} among its members")


def _texts(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> Mapping[str, Any] | BadRecord:
    file = tar.extractfile(member)
    text = file.read().decode("utf-8", "surrogateescape") if file else ""
    if suffix != ".json":
        return {"texts": [line for line in text.splitlines() if line.strip()]}
    try:
        value = json.loads(text)
    except ValueError as e:
        return BadRecord("not_json", f"{member.name}: {e}")
    return value if isinstance(value, dict) else BadRecord("not_an_object", f"{member.name}: {type(value).__name__}")
