"""Stage `build-audio-tags`: the `audio_tags` dataset, one example per clip with its labels.

    key: text    audio: PCM WAV bytes    sample_rate: int64    labels: [text]

Sources are tables beside or below the clips: ESC-50's `esc50.csv` (`filename, fold, category`), AudioSet's segment
lists (`YTID, start, end, labels`, no header) with `class_labels_indices.csv` for the names, or any table with a file
and its labels. Names are as people say them: `car_horn` becomes `car horn`.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs import sources, tables
from beam_jobs.build import build_as
from beam_jobs.clips import clip_example, clip_features, read_clip, suffixes_in, youtube_names
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.job import Info, Record, Row
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_AUDIO_TAGS, AudioTagsSpec
from beam_jobs.table_job import Parsed, TableFile, TableJob, table_files
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageContext, StageError

NAME = "audio_tags"
FILE = ("file", "filename", "file_name", "audio", "path")
LABELS = ("labels", "label", "category", "categories", "tags", "class", "display_name")
AUDIOSET, CLASSES, TABLE = "audioset", "classes", ""
EXPECTED = "esc50.csv, AudioSet's *_segments.csv with class_labels_indices.csv, or a table with a file and its labels"
DESCRIPTION = "Audio clips with labels, as PCM WAV."


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioTagsJob(TableJob):
    """Settings and paths of one build; `bases` are folders to look for clips in, `suffixes` those of the clips."""

    bases: tuple[str, ...]
    suffixes: tuple[str, ...]
    max_seconds: float
    validation_folds: tuple[int, ...]
    name: str = NAME
    record_kind: str = "clip"
    row_kind: str = "clip"

    def items(self, source: TableFile) -> Iterator[tables.Item]:
        return _segments(source.path) if source.layout == AUDIOSET else tables.rows(source.path)

    def read(self, source: TableFile) -> Iterator[Row | Letter | Info]:
        if source.layout != CLASSES:
            yield from super().read(source)
            return
        for index, row in tables.rows(source.path):
            try:
                if isinstance(row, BadRecord):
                    raise row
                yield Info("class", [tables.text_of(row, ("mid",)), tables.text_of(row, ("display_name",))])
            except BadRecord as bad:
                yield Letter(f"{source.name}:{index}", "class", "read", bad.reason, bad.error, source.name, {})

    def parse(self, row: Mapping[str, Any], source: TableFile, index: int) -> Parsed:
        if source.layout == AUDIOSET:
            # Many of the videos are gone by now: a clip that nobody could fetch is counted, not held against the build.
            value = {
                "names": youtube_names(row["id"], start=row["start"], end=row["end"]),
                "labels": row["labels"],
                "coded": True,
                "must_exist": False,
            }
            return Parsed(f"{row['id']}_{row['start']}", value, {"label": len(row["labels"])})
        file = tables.text_of(row, FILE)
        labels = [label.replace("_", " ") for label in tables.texts_of(row, LABELS, separators=";|")]
        if not labels:
            raise BadRecord("no_labels", f"{file}: no label in {', '.join(LABELS[:4])}")
        labels = list(dict.fromkeys(labels))
        value = {"names": [file], "labels": labels, "coded": False, "must_exist": True}
        return Parsed(file, value, {"label": len(labels)}, split=self._fold(row))

    def _fold(self, row: Mapping[str, Any]) -> str:
        fold = row.get("fold")
        if fold in (None, ""):
            return ""
        return "validation" if str(fold) in map(str, self.validation_folds) else "train"

    def assemble(
        self, key: str, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        classes = dict(info.get("class", ()))
        for item in super().assemble(key, rows, info):
            if isinstance(item, Letter) or not item.value["coded"]:
                yield item
                continue
            unknown = [code for code in item.value["labels"] if code not in classes]
            if unknown:
                error = f"{unknown[0]} is not in class_labels_indices.csv ({len(classes)} classes)"
                yield Letter(key, "clip", "join", "unknown_label", error, item.source, item.counts)
                continue
            labels = [classes[code] for code in item.value["labels"]]
            yield dataclasses.replace(item, value={**item.value, "labels": labels})

    def encode(self, record: Record) -> bytes:
        value = record.value
        data = read_clip(self.bases, value["names"], suffixes=self.suffixes, must_exist=value["must_exist"])
        texts = {"labels": value["labels"]}
        return clip_example(record.key, data, max_seconds=self.max_seconds, texts=texts)

    def count(self, example: Example) -> Mapping[str, int]:
        return {"clip": 1, "label": len(example.strings["labels"])}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import tensorflow_datasets as tfds

        return clip_features({"labels": tfds.features.Sequence(tfds.features.Text())})


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_AUDIO_TAGS, options)


def job_of(spec: AudioTagsSpec, roots: Mapping[str, AnyPlace]) -> AudioTagsJob:
    """The job of a recipe on the files of `roots`."""
    audio = sources.required(roots, "audio", wanted_by="build-audio-tags")
    role = "annotations" if "annotations" in roots else "audio"
    files = table_files(roots[role], role=role, expected=EXPECTED)
    files = tuple(dataclasses.replace(file, layout=_layout(file.path)) for file in files)
    if all(file.layout == CLASSES for file in files):
        raise StageError(
            f"{role} = {roots[role]}: only {files[0].name}, which holds names of classes; expected {EXPECTED}"
        )
    return AudioTagsJob(
        files=files,
        validation_fraction=spec.validation_fraction,
        bases=(*(str(audio / name) for name in ("audio", *sources.subfolders(audio))), str(audio)),
        suffixes=suffixes_in(audio),
        max_seconds=spec.max_seconds,
        validation_folds=spec.validation_folds,
    )


def run(spec: AudioTagsSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `audio_tags` from the raw artifact `raw`."""
    job = job_of(spec, sources.roots(context.inputs["raw"]))
    return build_as(spec, job, description=DESCRIPTION, context=context)


def _layout(path: str) -> str:
    if not path.lower().endswith(".csv"):
        return TABLE
    first = next((line for line in tables.lines(path) if line.strip() and not line.startswith("#")), "")
    if first.lower().replace(" ", "").startswith("index,mid,display_name"):
        return CLASSES
    cells = first.split(",")
    return AUDIOSET if len(cells) > 3 and all(_is_number(cell) for cell in cells[1:3]) else TABLE


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _segments(path: str) -> Iterator[tables.Item]:
    """Rows of a segment list; its labels may stand in one quoted cell or, unquoted by some tool, in several."""
    for index, line in enumerate(tables.lines(path)):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
        labels = [code for cell in cells[3:] for code in cell.replace('"', "").split(",") if code.strip()]
        if len(cells) < 4 or not cells[0] or not all(_is_number(c) for c in cells[1:3]):
            yield index, BadRecord("bad_segment", f"{line[:80]!r}; expected YTID, start_seconds, end_seconds, labels")
        elif not labels:
            yield index, BadRecord("no_labels", f"{cells[0]}: no label")
        else:
            codes = list(dict.fromkeys(code.strip() for code in labels))
            yield index, {"id": cells[0], "start": float(cells[1]), "end": float(cells[2]), "labels": codes}
