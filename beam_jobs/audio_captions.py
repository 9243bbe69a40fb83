"""Stage `build-audio`: the `audio_captions` dataset, one example per clip with its captions.

    key: text    audio: PCM WAV bytes    sample_rate: int64    captions: [text]

Sources are CSV tables, beside the clips or apart from them, of two kinds:
- Clotho's `captions_SPLIT.csv` (`file_name, caption_1, caption_2, ...`), with clips in `SPLIT/` or at the root;
- AudioCaps' (`audiocap_id, youtube_id, start_time, caption`), a row per caption, with ten-second clips named by the
  video's id, and by where in it they begin if the tool that fetched them does so.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from beam_jobs import sources, tables
from beam_jobs.build import build_as
from beam_jobs.clips import clip_example, clip_features, read_clip, suffixes_in, youtube_names
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.job import Record
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_AUDIO, AudioCaptionsSpec
from beam_jobs.table_job import Parsed, TableFile, TableJob
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageContext, StageError

NAME = "audio_captions"
CLOTHO, AUDIOCAPS = "clotho", "audiocaps"
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
DESCRIPTION = "Audio clips with captions, as PCM WAV."
EXPECTED = (
    "Clotho's captions_SPLIT.csv (file_name, caption_1, caption_2, ...) or AudioCaps' SPLIT.csv (audiocap_id, "
    f"youtube_id, start_time, caption), with SPLIT one of {', '.join(SPLITS)}"
)
_CLOTHO_NAME = re.compile(r"captions_(\w+)\.csv")
_CLIP_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioCaptionsJob(TableJob):
    """Settings and paths of one build; `bases` are folders to look for clips in, `suffixes` those of the clips."""

    audio: str
    bases: tuple[str, ...]
    suffixes: tuple[str, ...]
    max_seconds: float
    validation_fraction: float = 0.0
    name: str = NAME
    record_kind: str = "clip"
    row_kind: str = "clip"

    def parse(self, row: Mapping[str, Any], source: TableFile, index: int) -> Parsed:
        if source.layout == AUDIOCAPS:
            return _parse_audiocaps(row)
        name = tables.text_of(row, ("file_name",))
        captions = [text for column in row if column.startswith("caption") for text in [_one_line(row, column)] if text]
        if not captions:
            raise BadRecord("empty_text", f"{name}: no caption")
        folder = _clotho_folder(source.path)
        value = {"layout": CLOTHO, "folder": folder, "names": [name], "captions": captions}
        return Parsed(f"{folder}/{name}", value, {"caption": len(captions)})

    def assemble(
        self, key: str, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        first, *others = sorted(rows["row"], key=lambda r: r["at"])
        splits = {row["split"] for row in rows["row"]}
        if first["value"]["layout"] != AUDIOCAPS or len(splits) > 1:
            yield from super().assemble(key, rows, info)
            return
        captions = [text for row in (first, *others) for text in row["value"]["captions"]]
        yield self.record(key, first, {**first["value"], "captions": captions}, {"caption": len(captions)})

    def encode(self, record: Record) -> bytes:
        value = record.value
        clotho = value["layout"] == CLOTHO
        bases = [f"{self.audio.rstrip('/')}/{value['folder']}", self.audio] if clotho else self.bases
        # Many of AudioCaps' videos are gone by now: one that nobody could fetch is counted, not held against the build.
        data = read_clip(bases, value["names"], suffixes=self.suffixes, must_exist=clotho)
        texts = {"captions": value["captions"]}
        return clip_example(record.key, data, max_seconds=self.max_seconds, texts=texts)

    def count(self, example: Example) -> Mapping[str, int]:
        return {"clip": 1, "caption": len(example.strings["captions"])}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import tensorflow_datasets as tfds

        return clip_features({"captions": tfds.features.Sequence(tfds.features.Text())})


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_AUDIO, options)


def job_of(spec: AudioCaptionsSpec, roots: Mapping[str, AnyPlace]) -> AudioCaptionsJob:
    """The job of a recipe on the files of `roots`."""
    audio = sources.required(roots, "audio", wanted_by="build-audio")
    return AudioCaptionsJob(
        files=_tables(audio, roots.get("annotations")),
        audio=str(audio),
        bases=(*(str(audio / name) for name in sources.subfolders(audio)), str(audio)),
        suffixes=suffixes_in(audio),
        max_seconds=spec.max_seconds,
    )


def run(spec: AudioCaptionsSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `audio_captions` from the raw artifact `raw`."""
    job = job_of(spec, sources.roots(context.inputs["raw"]))
    return build_as(spec, job, description=DESCRIPTION, context=context)


def _tables(audio: AnyPlace, annotations: AnyPlace | None) -> tuple[TableFile, ...]:
    """The tables directly in a folder, or the one file; Clotho's are told by their names, AudioCaps' by their columns.

    They lie among the clips, or apart: a raw artifact may have a folder `annotations` that is about its images.

    Raises:
      StageError: there is none, or one that is named as Clotho's has other columns.
    """
    for root in (audio,) if annotations is None else (annotations, audio):
        if found := tuple(_tables_of(root)):
            return found
    where = " or ".join(str(root) for root in (audio, annotations) if root)
    raise StageError(f"audio = {where}: no table of captions; expected {EXPECTED}")


def _tables_of(root: AnyPlace) -> Iterator[TableFile]:
    listed = (path for path in sources.walk(root) if path.parent == root and path.suffix == ".csv")
    for path in [root] if root.is_file() else listed:
        columns = [c.strip() for c in next(tables.lines(str(path)), "").split(",")]
        split = next((SPLITS[word] for word in re.findall("[a-z]+", path.stem.lower()) if word in SPLITS), "train")
        if {"youtube_id", "start_time", "caption"} <= set(columns):
            yield TableFile(str(path), path.name, split, AUDIOCAPS)
        elif _clotho_folder(str(path)):
            if "file_name" not in columns or not any(c.startswith("caption") for c in columns):
                raise StageError(f"{path}: columns {columns}; expected file_name, caption_1, caption_2, ...")
            yield TableFile(str(path), path.name, split, CLOTHO)


def _clotho_folder(path: str) -> str:
    """The split that a table of Clotho's name names, which is the folder of its clips too; "" for other names."""
    match = _CLOTHO_NAME.fullmatch(PurePosixPath(path).name)
    return match[1] if match and match[1] in SPLITS else ""


def _parse_audiocaps(row: Mapping[str, Any]) -> Parsed:
    name, caption = tables.text_of(row, ("youtube_id",)), _one_line(row, "caption")
    try:
        start = float(tables.text_of(row, ("start_time",)))
        names = youtube_names(name, start=start, end=start + _CLIP_SECONDS)
    except ValueError as e:
        raise BadRecord("bad_number", f"start_time = {row['start_time']!r}; expected seconds") from e
    if not caption:
        raise BadRecord("empty_text", f"{name}: no caption")
    value = {"layout": AUDIOCAPS, "names": names, "captions": [caption]}
    return Parsed(f"{name}_{start:.0f}", value, {"caption": 1})


def _one_line(row: Mapping[str, Any], column: str) -> str:
    return " ".join(tables.text_of(row, (column,), required=False).split())
