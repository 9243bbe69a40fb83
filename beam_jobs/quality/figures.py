"""What one pass over the shards finds: counts by split, and one row of hashes per record.

A `Collector` reads the records of one shard; its `Figures` are added to those of the others. Units are integers:
pixels, words, millionths of a picture's area, milliseconds.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import uuid
import wave
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from beam_jobs.quality.hashes import content_hash, is_picture, look
from beam_jobs.quality.layout import Boxes, Classes, Layout
from beam_jobs.quality.looks import Notes
from beam_jobs.quality.measures import Names, Numbers
from beam_jobs.tf_example import Example

# 160 MB of rows. Of more records those with the smallest content hashes are compared: a sample in which records of
# equal content are still together.
MOST_RECORDS = 5_000_000
MILLION, MILLI = 1_000_000, 1000
ROW = np.dtype([("content", "<u8"), ("visual", "<u8"), ("key", "<u8"), ("place", "<u8")])
PLACE_BITS = 40
_AT_ONCE = 1 << 16  # rows held as Python numbers, 200 bytes each
_KINDS = {b"\x89": "PNG", b"\xff": "JPEG"}
COUNTS, ROWS = "quality_counts.json", "quality_rows.npy"
_SLACK = 1e-4  # of the side: boxes come from rounded pixels


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a record is: the shard's number, in the order of (split, index), and the record's in it."""

    shard: int
    record: int

    @property
    def packed(self) -> int:
        return self.shard << PLACE_BITS | self.record

    @classmethod
    def of(cls, packed: int) -> Place:
        return cls(packed >> PLACE_BITS, packed & ((1 << PLACE_BITS) - 1))


class Figures:
    """Counts by (split, what, field), and rows of hashes (`ROW`; 0 stands for none)."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str, str], Numbers] = {}
        self.names: dict[tuple[str, str, str], Names] = {}
        self._rows: list[np.ndarray] = []
        self.records = 0

    def number(self, split: str, what: str, field: str) -> Numbers:
        return self.numbers.setdefault((split, what, field), Numbers())

    def name(self, split: str, what: str, field: str) -> Names:
        return self.names.setdefault((split, what, field), Names())

    def add_rows(self, rows: np.ndarray) -> None:
        self._rows.append(rows)
        self.records += len(rows)
        self._trim()

    def merge(self, other: Figures) -> None:
        """Adds the figures of other shards."""
        for place, numbers in other.numbers.items():
            self.number(*place).merge(numbers)
        for place, names in other.names.items():
            self.name(*place).merge(names)
        self._rows += other._rows
        self.records += other.records
        self._trim()

    def _trim(self) -> None:
        if sum(map(len, self._rows)) > MOST_RECORDS * 5 // 4:
            self._rows = [self.rows()]

    def rows(self) -> np.ndarray:
        """The rows in the order of places; at most `MOST_RECORDS`."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros(0, ROW)
        if len(rows) > MOST_RECORDS:
            rows = rows[np.lexsort((rows["place"], rows["content"]))[:MOST_RECORDS]]
        return rows[np.argsort(rows["place"])]

    def save(self, folder: str) -> None:
        """Writes two files into a folder, each whole or not at all."""
        counts = {
            "records": self.records,
            "numbers": [[*place, self.numbers[place].to_json()] for place in sorted(self.numbers)],
            "names": [[*place, self.names[place].to_json()] for place in sorted(self.names)],
        }
        mark = f".tmp-{uuid.uuid4().hex}"
        with open(os.path.join(folder, COUNTS + mark), "w", encoding="utf-8") as file:
            json.dump(counts, file)
        with open(os.path.join(folder, ROWS + mark), "wb") as file:
            np.save(file, self.rows(), allow_pickle=False)
        for name in (COUNTS, ROWS):
            os.replace(os.path.join(folder, name + mark), os.path.join(folder, name))

    @classmethod
    def load(cls, folder: str) -> Figures:
        """The figures that `save` wrote."""
        with open(os.path.join(folder, COUNTS), encoding="utf-8") as file:
            value = json.load(file)
        figures = cls()
        figures.numbers = {(a, b, c): Numbers.from_json(v) for a, b, c, v in value["numbers"]}
        figures.names = {(a, b, c): Names.from_json(v) for a, b, c, v in value["names"]}
        figures._rows = [np.load(os.path.join(folder, ROWS), allow_pickle=False)]
        figures.records = value["records"]
        return figures


class Collector:
    """The figures of one shard; call it with each record in turn. `notes` say what was seen as it was written."""

    def __init__(self, layout: Layout, *, split: str, shard: int, notes: Notes):
        self.figures = Figures()
        self._layout = layout
        self._split = split
        self._shard = shard
        self._notes = notes
        self._rows: list[tuple[int, int, int, int]] = []

    def __call__(self, example: Example) -> None:
        layout = self._layout
        record = self.figures.records + len(self._rows)
        visual = self._image(example, record) if layout.image else 0
        for boxes in layout.boxes:
            self._boxes(boxes, example.floats.get(boxes.key, ()))
        for classes in layout.classes:
            self._classes(classes, example)
        for field in layout.texts:
            self._texts(field.name, _strings(example, field.key))
        if layout.frames:
            self._number("frames", layout.frames.name, len(_strings(example, layout.frames.key)))
        if layout.sound or layout.seconds:
            self._clip(example)
        place = Place(self._shard, record).packed
        self._rows.append((_content(layout, example), visual, _key(layout, example), place))
        if len(self._rows) >= _AT_ONCE:
            self.finish()

    def finish(self) -> Figures:
        """The figures of all records that came."""
        self.figures.add_rows(np.array(self._rows, ROW))
        self._rows = []
        return self.figures

    def _number(self, what: str, field: str, value: int) -> None:
        self.figures.number(self._split, what, field).add(value)

    def _name(self, what: str, field: str, value: str) -> None:
        self.figures.name(self._split, what, field).add(value)

    def _image(self, example: Example, record: int) -> int:
        assert self._layout.image
        name = self._layout.image.name
        data = next(iter(_strings(example, self._layout.image.key)), b"")
        noted = self._notes.look(record, data) if self._layout.decode else None
        seen = noted or look(data, decode=self._layout.decode)
        if seen is None:
            self._name("problems", name, "cannot be decoded")
            return 0
        self._number("width", name, seen.width)
        self._number("height", name, seen.height)
        self._name("size", name, f"{seen.width} x {seen.height}")
        self._name("format", name, seen.format)
        if self._layout.decode and not seen.hash:
            self._name("problems", name, "one colour")
        return seen.hash

    def _boxes(self, boxes: Boxes, values: Sequence[float]) -> None:
        self._number("boxes", boxes.name, len(values) // 4)
        for top, left, bottom, right in zip(*[iter(values)] * 4, strict=False):
            if not (math.isfinite(top + left + bottom + right) and bottom > top and right > left):
                self._name("problems", boxes.name, "no area, or not a number")
                continue
            if min(top, left) < -_SLACK or max(bottom, right) > 1 + _SLACK:
                self._name("problems", boxes.name, "beyond the image")
            self._number("area", boxes.name, max(0, round((bottom - top) * (right - left) * MILLION)))

    def _classes(self, classes: Classes, example: Example) -> None:
        for value in example.ints.get(classes.key, ()):
            known = 0 <= value < len(classes.names)
            self._name("classes", classes.name, classes.names[value] if known else str(value))
        for text in _strings(example, classes.key):
            name = text.decode(errors="replace").strip()
            self._name("classes" if name else "blank", classes.name, name or "blank")

    def _texts(self, name: str, values: Iterable[bytes]) -> None:
        number = 0
        for value in values:
            if is_picture(value):
                self._name("pictures", name, _KINDS.get(value[:1], "other"))
                continue
            text = value.decode(errors="replace")
            words = text.split()
            if not words:
                self._name("blank", name, "blank")
                continue
            number += 1
            self._number("words", name, len(words))
            self._number("characters", name, len(text))
            if "\ufffd" in text:
                self._name("problems", name, "not UTF-8")
        self._number("texts", name, number)

    def _clip(self, example: Example) -> None:
        layout = self._layout
        seconds = next(iter(example.floats.get(layout.seconds.key, ())), None) if layout.seconds else None
        sound = next(iter(_strings(example, layout.sound.key)), b"") if layout.sound else b""
        if layout.sound:
            heard = self._sound(layout.sound.name, sound)
            seconds = heard if seconds is None else seconds
        if seconds is not None and math.isfinite(seconds):
            field = layout.seconds or layout.sound
            assert field
            self._number("seconds", field.name, max(0, round(seconds * MILLI)))

    def _sound(self, name: str, data: bytes) -> float | None:
        """Seconds of a WAV file; None of anything else."""
        if not data:
            self._name("problems", name, "no sound")
            return None
        try:
            with wave.open(io.BytesIO(data)) as file:
                rate, frames, samples = file.getframerate(), file.getnframes(), file.readframes(file.getnframes())
                kind = f"{rate} Hz, {file.getnchannels()} ch, {8 * file.getsampwidth()} bit"
        except (wave.Error, EOFError):
            self._name("problems", name, "not PCM WAV")
            return None
        self._name("format", name, kind)
        if not samples.strip(b"\x80" if kind.endswith(" 8 bit") else b"\x00"):
            self._name("problems", name, "digital silence")
        return frames / rate if rate else None


def _strings(example: Example, key: str) -> list[bytes]:
    return [v if isinstance(v, bytes) else v.encode() for v in example.strings.get(key, ())]


def _content(layout: Layout, example: Example) -> int:
    if layout.image:
        return content_hash(_strings(example, layout.image.key))
    fields = [field for field in (layout.frames, layout.sound) if field] or layout.texts
    return content_hash(value for field in fields for value in _strings(example, field.key))


def _key(layout: Layout, example: Example) -> int:
    if layout.key is None:
        return 0
    return content_hash([key_of(layout, example).encode()])


def key_of(layout: Layout, example: Example) -> str:
    """What a record is called; "" where its dataset names none."""
    if layout.key is None:
        return ""
    found: list[Any] = [*example.ints.get(layout.key.key, ()), *_strings(example, layout.key.key)]
    return (found[0].decode(errors="replace") if isinstance(found[0], bytes) else str(found[0])) if found else ""
