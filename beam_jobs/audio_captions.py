"""Stage `build-audio`: the `audio_captions` dataset, one example per clip with its captions.

    key: text    audio: original WAV bytes    sample_rate: int64    captions: [text]

Sources are `captions_SPLIT.csv` tables in Clotho's columns (`file_name, caption_1, caption_2, ...`), with clips
in `SPLIT/` or beside the table.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import wave
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_jobs import coco_rows, sources
from beam_jobs.build import build
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.job import Info, Record, Row
from beam_jobs.specs import AudioCaptionsSpec
from beam_jobs.tf_example import Example
from uio2.pipeline.stage import StageContext, StageError

NAME = "audio_captions"
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
DESCRIPTION = "Audio clips with captions; original WAV bytes."
_TABLE = re.compile(r"captions_(\w+)\.csv")


@dataclasses.dataclass(frozen=True)
class AudioCaptionsJob:
    """Settings and paths of one build; `tables` are (split folder, path)."""

    tables: tuple[tuple[str, str], ...]
    audio: str
    max_seconds: float
    name: str = NAME
    record_kind: str = "clip"
    join_kinds: tuple[str, ...] = ("row",)

    def sources(self) -> Sequence[tuple[str, str]]:
        return self.tables

    def read(self, source: tuple[str, str]) -> Iterator[Row | Letter | Info]:
        return read_table(*source)

    def assemble(
        self, key: str, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        first, *others = sorted(rows["row"], key=lambda r: r["source"])
        for row in others:
            drops = {"clip": 1, "caption": len(row["captions"])}
            yield Letter(key, "clip", "join", "duplicate_clip", f"also in {first['source']}", row["source"], drops)
        counts = {"clip": 1, "caption": len(first["captions"])}
        yield Record(SPLITS[first["folder"]], key, first, counts, first["source"])

    def encode(self, record: Record) -> bytes:
        value = record.value
        data = read_clip(self.audio, value["folder"], value["file_name"])
        rate = check_wav(data, max_seconds=self.max_seconds)
        return Example(
            ints={"sample_rate": [rate]},
            strings={"key": [record.key], "audio": [data], "captions": value["captions"]},
        ).to_bytes()

    def count(self, example: Example) -> Mapping[str, int]:
        return {"clip": 1, "caption": len(example.strings["captions"])}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import numpy as np
        import tensorflow_datasets as tfds

        f = tfds.features
        return f.FeaturesDict(
            {
                "key": f.Text(),
                "audio": f.Tensor(shape=(), dtype=np.str_),
                "sample_rate": np.int64,
                "captions": f.Sequence(f.Text()),
            }
        )


def run(spec: AudioCaptionsSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `audio_captions` from the raw artifact `raw`."""
    roots = sources.roots(context.inputs["raw"])
    audio = sources.required(roots, "audio", wanted_by="build-audio")
    tables = [
        (m[1], str(path))
        for path in sorted(audio.glob("*.csv"))
        if (m := _TABLE.fullmatch(path.name)) and m[1] in SPLITS
    ]
    if not tables:
        raise StageError(
            f"audio = {audio}: no captions_SPLIT.csv with SPLIT one of {', '.join(SPLITS)}; expected Clotho's "
            "columns file_name, caption_1, caption_2, ..."
        )
    job = AudioCaptionsJob(tuple(tables), str(audio), spec.max_seconds)
    return build(
        job,
        num_shards=spec.num_shards,
        limit=spec.limit,
        max_dropped_fraction=spec.max_dropped_fraction,
        version=spec.version,
        description=DESCRIPTION,
        context=context,
    )


def read_table(folder: str, path: str) -> Iterator[Row | Letter]:
    """The rows of one table; blank captions are left out, a row without any is dropped."""
    with sources.open_binary(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        table = csv.DictReader(text)
        columns = [c for c in table.fieldnames or [] if c.startswith("caption")]
        if "file_name" not in (table.fieldnames or []) or not columns:
            raise StageError(f"{path}: columns {table.fieldnames}; expected file_name, caption_1, caption_2, ...")
        for index, row in enumerate(table):
            place = coco_rows.source_place(path, "", index)
            name = row["file_name"] or ""
            captions = [" ".join(row[c].split()) for c in columns if (row[c] or "").strip()]
            if not name or not captions:
                yield Letter(name or "?", "row", "read", "empty_row", "no file name or no caption", place, {})
                continue
            value = {"folder": folder, "file_name": name, "captions": captions, "source": place}
            yield Row(f"{folder}/{name}", "row", value, {"caption": len(captions)})


def read_clip(root: str, folder: str, name: str) -> bytes:
    """The bytes of a clip.

    Raises:
      BadRecord: `path_escape` or `audio_missing`.
    """
    bases = [str(Path(root) / folder), root]
    try:
        path = sources.find_file([b for b in bases if Path(b).is_dir()], [name])
    except sources.PathEscape as e:
        raise BadRecord("path_escape", str(e)) from e
    if path is None:
        raise BadRecord("audio_missing", f"{name} is in neither {folder}/ nor the audio folder")
    with open(path, "rb") as file:
        return file.read()


def check_wav(data: bytes, *, max_seconds: float) -> int:
    """Reads a WAV through and returns its sample rate.

    Raises:
      BadRecord: `empty_file`, `not_wav`, `bad_rate`, `bad_width`, `no_samples`, `too_long` or `cut_short`.
    """
    if not data:
        raise BadRecord("empty_file", "the file has no bytes")
    try:
        with wave.open(io.BytesIO(data)) as file:
            rate, frames, width = file.getframerate(), file.getnframes(), file.getsampwidth() * file.getnchannels()
            if rate < 1:
                raise BadRecord("bad_rate", f"sample rate {rate}")
            if file.getsampwidth() > 4:
                raise BadRecord("bad_width", f"{file.getsampwidth()} bytes per sample; at most 4 can be read later")
            if frames < 1:
                raise BadRecord("no_samples", "the header promises no samples")
            if frames / rate > max_seconds:
                raise BadRecord("too_long", f"{frames / rate:.1f} s is above max_seconds = {max_seconds}")
            held = len(file.readframes(frames)) // width
    except (wave.Error, EOFError) as e:
        raise BadRecord("not_wav", f"{type(e).__name__}: {e}; starts with {data[:12]!r}") from e
    if held < frames:
        raise BadRecord("cut_short", f"{held} of {frames} samples are there")
    return rate
