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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs import coco_rows, sources
from beam_jobs.build import build
from beam_jobs.clips import clip_example, clip_features, read_clip
from beam_jobs.dead_letters import Letter
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
        data = read_clip([f"{self.audio.rstrip('/')}/{value['folder']}", self.audio], [value["file_name"]])
        texts = {"captions": value["captions"]}
        return clip_example(record.key, data, max_seconds=self.max_seconds, texts=texts)

    def count(self, example: Example) -> Mapping[str, int]:
        return {"clip": 1, "caption": len(example.strings["captions"])}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import tensorflow_datasets as tfds

        return clip_features({"captions": tfds.features.Sequence(tfds.features.Text())})


def run(spec: AudioCaptionsSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `audio_captions` from the raw artifact `raw`."""
    roots = sources.roots(context.inputs["raw"])
    audio = sources.required(roots, "audio", wanted_by="build-audio")
    tables = [
        (m[1], str(path))
        for path in sources.walk(audio)
        if path.parent == audio and (m := _TABLE.fullmatch(path.name)) and m[1] in SPLITS
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
