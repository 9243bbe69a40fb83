"""Rows of tables as dictionaries, one at a time: JSON, JSON lines, CSV, TSV, Parquet, each also as `.gz` but Parquet.

`rows(path)` yields `(index, row)`; a row that cannot be read comes as the `BadRecord` that says why, and reading goes
on behind it. Bytes that are not UTF-8 stay in their cell as lone surrogates, which `checked_text` refuses: one bad
byte costs one row. TSV has no quoting (the IANA definition), CSV has RFC 4180's.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs.coco_rows import checked_text
from beam_jobs.dead_letters import BadRecord
from beam_jobs.json_stream import stream
from beam_jobs.sources import open_binary
from uio2.pipeline.stage import StageError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_LONGEST_CELL = 1 << 24
_PEEKED = 1 << 20

Item = tuple[int, "Mapping[str, Any] | BadRecord"]


def is_table(name: str) -> bool:
    """Whether a file of this name is read here."""
    return name.lower().removesuffix(".gz").endswith(SUFFIXES)


def rows(path: str, *, header: Sequence[str] = ()) -> Iterator[Item]:
    """Rows of a table in file order.

    Args:
      path: any file that `is_table`.
      header: column names of a CSV or TSV whose first line is none.

    Raises:
      StageError: the file is no table of its kind, or cannot be read to its end.
    """
    kind = path.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        if kind == "parquet":
            from beam_jobs import parquet

            yield from parquet.rows(path)
        elif kind in ("csv", "tsv"):
            yield from _cells(path, header, tabs=kind == "tsv")
        elif kind in ("jsonl", "ndjson") or _holds_lines(path):
            yield from _json_lines(path)
        else:
            yield from ((index, _mapping(item)) for _, index, item in stream(path, sections={""}))
    except (OSError, EOFError, zlib.error) as e:
        raise StageError(f"{path}: cannot be read to the end ({type(e).__name__}: {e}). Fetch the file again") from e


def lines(path: str) -> Iterator[str]:
    """Lines of a text file without their ends; bytes that are not UTF-8 become lone surrogates."""
    with open_binary(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape") as text:
        for line in text:
            yield line.rstrip("\r\n")


def pick(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value of the first column there is that holds something, else None."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def text_of(row: Mapping[str, Any], names: Sequence[str], *, required: bool = True) -> str:
    """A text cell without blanks at its ends.

    Raises:
      BadRecord: `missing_field` or `empty_text` if required; `wrong_type` or `bad_text`.
    """
    value = pick(row, names)
    if value is None:
        if not required:
            return ""
        if any(name in row for name in names):
            raise BadRecord("empty_text", f"{next(n for n in names if n in row)} is empty")
        raise BadRecord("missing_field", f"none of {', '.join(names)}; it has {', '.join(map(str, row))}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRecord("wrong_type", f"{type(value).__name__} {value!r:.80}; expected text")
    text = checked_text(str(value).strip())
    if not text and required:
        raise BadRecord("empty_text", f"{', '.join(n for n in names if n in row)} is blank")
    return text


def texts_of(row: Mapping[str, Any], names: Sequence[str], *, separators: str = "") -> list[str]:
    """A list of texts from a list cell, or from a text cell that is cut at any of the separators; blanks are left out.

    Raises:
      BadRecord: `wrong_type` or `bad_text`.
    """
    value = pick(row, names)
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        value = _json_or(value)
    if isinstance(value, str):
        for separator in separators:
            value = value.replace(separator, "\0")
        value = value.split("\0") if separators else [value]
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or any(not isinstance(v, (str, int, float)) for v in value):
        raise BadRecord("wrong_type", f"{type(value).__name__} {value!r:.80}; expected text or a list of texts")
    found = [checked_text(str(v).strip()) for v in value]
    return [text for text in found if text]


def _json_or(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _mapping(item: Any) -> Mapping[str, Any] | BadRecord:
    if isinstance(item, Mapping):
        return item
    return BadRecord("not_an_object", f"{type(item).__name__} {item!r:.80}; expected an object")


def _holds_lines(path: str) -> bool:
    """Whether a `.json` file holds an object per line, which is common."""
    with open_binary(path) as file:
        start = file.read(_PEEKED).lstrip()
    if not start.startswith(b"{"):
        return False
    first, newline, rest = start.partition(b"\n")
    try:
        return isinstance(json.loads(first), dict) and (not rest.strip() or rest.lstrip().startswith(b"{"))
    except ValueError:
        if newline:
            raise StageError(f"{path}: one JSON object; expected a list of rows, or a row per line") from None
        return False


def _json_lines(path: str) -> Iterator[Item]:
    for index, line in enumerate(lines(path)):
        if not line.strip():
            continue
        try:
            yield index, _mapping(json.loads(line))
        except (ValueError, RecursionError) as e:
            yield index, BadRecord("not_json", f"{e}; the line starts with {line[:40]!r}")


def _cells(path: str, header: Sequence[str], *, tabs: bool) -> Iterator[Item]:
    csv.field_size_limit(_LONGEST_CELL)
    with open_binary(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        if tabs:
            reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(text, strict=True, skipinitialspace=True)
        columns, index = list(header), -1
        while True:
            index += 1
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as e:
                yield index, BadRecord("bad_csv", f"line {reader.line_num}: {e}")
                continue
            if not any(cells):
                continue
            if not columns:
                columns = [c.strip() for c in cells]
            elif len(cells) != len(columns):
                yield index, BadRecord("cell_count", f"{len(cells)} cells; the header has {len(columns)}")
            else:
                yield index, dict(zip(columns, cells, strict=True))
