"""Rows and records as bytes, for the scratch files of a build: msgpack, so that reading one back runs no code.

What comes back is what went in, in its own types: JSON values, tuples, bytes, `Record`s. Lists and tuples stay apart
because jobs compare and sort them, and a build must not depend on whether a row went over the disk.
"""

from __future__ import annotations

from typing import Any

import msgpack

from beam_jobs.job import Record

_TUPLE, _RECORD, _INTEGER = 1, 2, 3


def pack(value: Any) -> bytes:
    """The bytes of a value.

    Raises:
      TypeError: something in it is of none of the types above; the message names it.
    """
    return msgpack.packb(value, default=_extended, strict_types=True, unicode_errors="surrogatepass")


def unpack(data: bytes) -> Any:
    """The value `pack` was given."""
    return msgpack.unpackb(data, ext_hook=_restored, strict_map_key=False, unicode_errors="surrogatepass")


def _extended(value: Any) -> msgpack.ExtType:
    if type(value) is tuple:
        return msgpack.ExtType(_TUPLE, pack(list(value)))
    if type(value) is Record:
        return msgpack.ExtType(_RECORD, pack([value.split, value.key, value.value, value.counts, value.source]))
    if type(value) is int:  # beyond 64 bits
        return msgpack.ExtType(_INTEGER, str(value).encode("ascii"))
    raise TypeError(
        f"{value!r:.100} is a {type(value).__name__}; rows and records hold JSON values, tuples and bytes. "
        "Convert it in the job's `read` or `assemble`."
    )


def _restored(code: int, data: bytes) -> Any:
    if code == _TUPLE:
        return tuple(unpack(data))
    if code == _RECORD:
        return Record(*unpack(data))
    if code == _INTEGER:
        return int(data)
    raise ValueError(f"unknown kind {code} of value in a scratch file")
