"""Reads huge annotation JSON a record at a time, with one clear error when the file is not what it claims.

`stream(path, sections={"images", "annotations"})` yields `(section, index, item)`: memory is one item and a buffer,
not the file (VQA train annotations and COCO instances are 800 MB together). A file that is one list has the section "".
The standard library's scanner does the parsing, at 50 to 100 MB/s. Bytes that are not UTF-8 stay in their text as lone
surrogates, which `coco_rows.checked_text` refuses: one bad byte costs one item, not the file.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from beam_jobs.sources import open_binary
from uio2.pipeline.stage import StageError

CHUNK = 1 << 20
_BLANK = " \t\r\n"
_TAIL = 64
_DECODER = json.JSONDecoder()
_KNOWN = {
    "<": "HTML (a web page saved under this name?)",
    "\x1f": "gzip data (its name must end in .gz to be unpacked)",
}


def stream(path: str, *, sections: Collection[str], chunk: int = CHUNK) -> Iterator[tuple[str, int, Any]]:
    """Yields the items of the named top-level lists, in file order.

    Args:
      path: a JSON file, wherever it is.
      sections: top-level keys whose lists are wanted; "" stands for a file that is itself a list.
      chunk: bytes read at a time.

    Raises:
      StageError: the file is empty, is not JSON, is cut short, or lacks a wanted section.
    """
    with open_binary(path) as file:
        cursor = _Cursor(file, path, chunk)
        first = cursor.peek()
        if first == "[":
            if "" not in sections:
                raise StageError(f"{path}: expected a JSON object with {_named(sections)}, found a list")
            yield from _items(cursor, "")
        elif first == "{":
            yield from _object(cursor, sections)
        elif first == "":
            raise StageError(f"{path}: the file is empty; expected JSON with {_named(sections)}")
        else:
            what = _KNOWN.get(first, f"text that starts with {first!r}")
            raise StageError(
                f"{path}: not JSON but {what}; expected JSON with {_named(sections)}. Fetch the file again"
            )
        if cursor.peek():
            raise cursor.error("more text after the end of the JSON value")


def _named(sections: Collection[str]) -> str:
    return ", ".join(repr(s) for s in sorted(sections) if s) or "a list"


def _object(cursor: _Cursor, sections: Collection[str]) -> Iterator[tuple[str, int, Any]]:
    cursor.take("{")
    seen = set()
    while cursor.peek() != "}":
        key = cursor.value()
        if not isinstance(key, str):
            raise cursor.error(f"expected a key in quotes, found {key!r}")
        cursor.take(":")
        seen.add(key)
        if key in sections and cursor.peek() == "[":
            yield from _items(cursor, key)
        elif key in sections:
            raise cursor.error(f"{key!r} is not a list")
        else:
            cursor.skip()
        if cursor.peek() != ",":
            break
        cursor.take(",")
        if cursor.peek() == "}":
            raise cursor.error("a comma before '}'")
    cursor.take("}")
    if missing := set(sections) - seen - {""}:
        raise StageError(
            f"{cursor.path}: no {_named(missing)} in the file; it has {_named(seen) if seen else 'no keys'}. "
            "Is this the right file?"
        )


def _items(cursor: _Cursor, section: str) -> Iterator[tuple[str, int, Any]]:
    cursor.take("[")
    index = 0
    while cursor.peek() != "]":
        yield section, index, cursor.value()
        index += 1
        if cursor.peek() != ",":
            break
        cursor.take(",")
        if cursor.peek() == "]":
            raise cursor.error("a comma before ']'")
    cursor.take("]")


class _Cursor:
    """A text buffer over the file with a position; drops what was consumed."""

    def __init__(self, file: BinaryIO, path: str, chunk: int):
        self.path = path
        self._file = file
        self._chunk = chunk
        # utf-8-sig: some tools write a byte order mark.
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text = ""
        self._at = 0
        self._before = 0
        self._ended = False

    def error(self, what: str) -> StageError:
        return StageError(
            f"{self.path}: not valid JSON at character {self._before + self._at}: {what}. Fetch the file again"
        )

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANK:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        if (found := self.peek()) != expected:
            raise self.error(f"expected {expected!r}, found {found!r}" if found else "the file is cut short")
        self._at += 1

    def value(self) -> Any:
        """Parses the next value, reading on until it is whole."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as e:
                # An error far from the end of the buffer is a real one; reading on cannot mend it.
                cut = e.msg.startswith("Unterminated") or e.pos > len(self._text) - _TAIL
                if cut and self._more():
                    continue
                raise self.error("the file is cut short" if e.pos >= len(self._text) - 1 else e.msg) from e
            # A number at the very end of the buffer may go on.
            if end == len(self._text) and self._more():
                continue
            self._at = end
            return value

    def skip(self) -> None:
        """Passes over the next value; a list item by item, so that a huge unwanted one costs no memory."""
        if self.peek() == "[":
            for _ in _items(self, ""):
                pass
        else:
            self.value()

    def _more(self) -> bool:
        if self._ended:
            return False
        # Doubling keeps a value much longer than the chunk from being parsed once per chunk.
        data = self._file.read(max(self._chunk, len(self._text) - self._at))
        self._ended = not data
        text = self._decode.decode(data, final=self._ended)
        self._before += self._at
        self._text = self._text[self._at :] + text
        self._at = 0
        return not self._ended or bool(text)
