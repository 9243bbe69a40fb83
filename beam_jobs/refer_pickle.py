"""Reads REFER's `refs(*).p` files without running pickle code.

A pickle is a program; `pickle.load` on a downloaded file runs whatever its author liked. This reader walks the opcodes
with `pickletools`, knows the few that build lists, dicts, strings, numbers and booleans, and refuses every other, so
nothing is ever imported or called. Python 2 strings (the released files) are taken as UTF-8.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

from beam_jobs.sources import open_binary
from uio2.pipeline.stage import StageError

MAX_BYTES = 1 << 30
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_BYTES = {"STRING", "BINSTRING", "SHORT_BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = {"PROTO", "FRAME"}


class _Mark:
    """Where a list, dict or tuple begins on the stack."""


def load(path: str) -> Any:
    """The value in the file: lists, dicts, strings, numbers, booleans and None only.

    Raises:
      StageError: the file is not such a pickle; the message names the opcode and its place.
    """
    with open_binary(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise StageError(f"{path}: larger than {MAX_BYTES:,} bytes; REFER's largest file is 50 MB")
    try:
        return _Machine(path).run(data)
    except (ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError) as e:
        raise StageError(
            f"{path}: not a whole pickle of plain data ({type(e).__name__}: {e}). Fetch the file again, or "
            "convert it to JSON"
        ) from e


class _Machine:
    def __init__(self, path: str):
        self._path = path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._handlers: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_Mark),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "EMPTY_TUPLE": lambda _: self._stack.append(()),
            "LIST": lambda _: self._stack.append(self._marked()),
            "TUPLE": lambda _: self._stack.append(tuple(self._marked())),
            "DICT": lambda _: self._stack.append(_pairs(self._marked())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            "APPEND": lambda _: self._extend([self._stack.pop()]),
            "APPENDS": lambda _: self._extend(self._marked()),
            "SETITEM": lambda _: self._update(self._popped(2)),
            "SETITEMS": lambda _: self._update(self._marked()),
            "MEMOIZE": lambda _: self._memo.__setitem__(len(self._memo), self._stack[-1]),
            "POP": lambda _: self._stack.pop(),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda at: self._memo.__setitem__(at, self._stack[-1])),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda at: self._stack.append(self._memo[at])),
        }

    def run(self, data: bytes) -> Any:
        for opcode, argument, at in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in _IGNORED:
                continue
            if name in _NUMBERS or name in _TEXTS:
                self._stack.append(argument)
            elif name in _BYTES:
                self._stack.append(argument.decode() if isinstance(argument, bytes) else argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in self._handlers:
                self._handlers[name](argument)
            else:
                raise StageError(
                    f"{self._path}: opcode {name} at byte {at} does more than hold data, so the file is refused "
                    "and nothing in it was run; expected lists, dicts, strings and numbers. Get the file from "
                    "its publisher, or convert it to JSON"
                )
        raise ValueError("it does not end")

    def _marked(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _Mark:
            at -= 1
        # Falls off the stack's lower end (IndexError) when there is no mark.
        found = self._stack[at + 1 :]
        del self._stack[at:]
        return found

    def _popped(self, number: int) -> list[Any]:
        found = self._stack[-number:]
        del self._stack[-number:]
        return found

    def _tuple(self, number: int) -> None:
        self._stack.append(tuple(self._popped(number)))

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError("appends to what is not a list")
        self._stack[-1].extend(values)

    def _update(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise TypeError("sets items of what is not a dict")
        self._stack[-1].update(_pairs(values))


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))
