"""Stage `build-speech`: the `speech` dataset, one example per recording with what is said.

    key: text    audio: PCM WAV bytes    sample_rate: int64    transcript: text    speaker: text ("" if unknown)

Sources are transcripts beside or below the recordings: a table with a file and a text (Common Voice's TSV, NeMo's JSON
lines and the like), LibriSpeech's `*.trans.txt` (`ID words`), or LJSpeech's `metadata.csv` (`id|text|normalised text`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from beam_jobs import sources, tables
from beam_jobs.build import build_as
from beam_jobs.clips import clip_example, clip_features, read_clip, suffixes_in
from beam_jobs.dead_letters import BadRecord
from beam_jobs.job import Record
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_SPEECH, SpeechSpec
from beam_jobs.table_job import Parsed, TableFile, TableJob, table_files
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageContext

NAME = "speech"
FILE = ("file", "file_name", "filename", "path", "audio", "audio_filepath", "wav", "id")
TEXT = ("transcript", "transcription", "text", "sentence", "words")
SPEAKER = ("speaker", "speaker_id", "client_id", "spk")
LIBRISPEECH, LJSPEECH, TABLE = "librispeech", "ljspeech", ""
EXPECTED = "a table with a file and its text, LibriSpeech's *.trans.txt or LJSpeech's metadata.csv"
DESCRIPTION = "Recordings of speech with transcripts, as PCM WAV."


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechJob(TableJob):
    """Settings and paths of one build; `audio` is the root of the recordings, `folders` those directly below it."""

    audio: str
    folders: tuple[str, ...]
    suffixes: tuple[str, ...]
    max_seconds: float
    name: str = NAME
    record_kind: str = "recording"
    row_kind: str = "recording"

    def items(self, source: TableFile) -> Iterator[tables.Item]:
        if source.layout == LIBRISPEECH:
            return _split_lines(source.path, " ", ("id", "text"))
        if source.layout == LJSPEECH:
            return _split_lines(source.path, "|", ("id", "raw", "text"))
        return tables.rows(source.path)

    def parse(self, row: Mapping[str, Any], source: TableFile, index: int) -> Parsed:
        file = tables.text_of(row, FILE)
        speaker = tables.text_of(row, SPEAKER, required=False)
        if source.layout == LIBRISPEECH:
            speaker = file.partition("-")[0]
        folder = PurePosixPath(source.name).parent
        value = {
            "file": file,
            "folder": "" if str(folder) == "." else str(folder),
            "transcript": tables.text_of(row, TEXT),
            "speaker": speaker,
        }
        return Parsed(file, value)

    def encode(self, record: Record) -> bytes:
        value = record.value
        bases = [f"{self.audio}/{folder}" for folder in (value["folder"], *self.folders) if folder]
        data = read_clip([*bases, self.audio], [value["file"]], suffixes=self.suffixes)
        texts = {"transcript": [value["transcript"]], "speaker": [value["speaker"]]}
        return clip_example(record.key, data, max_seconds=self.max_seconds, texts=texts)

    def count(self, example: Example) -> Mapping[str, int]:
        return {"recording": 1}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import tensorflow_datasets as tfds

        text = tfds.features.Text()
        return clip_features({"transcript": text, "speaker": text})


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_SPEECH, options)


def job_of(spec: SpeechSpec, roots: Mapping[str, AnyPlace]) -> SpeechJob:
    """The job of a recipe on the files of `roots`."""
    audio = sources.required(roots, "audio", wanted_by="build-speech")
    role = "annotations" if "annotations" in roots else "audio"
    files = table_files(
        roots[role],
        role=role,
        wanted=lambda name: tables.is_table(name) or name.endswith(".trans.txt"),
        expected=EXPECTED,
    )
    return SpeechJob(
        files=tuple(dataclasses.replace(file, layout=_layout(file.path)) for file in files),
        validation_fraction=spec.validation_fraction,
        audio=str(audio),
        folders=sources.subfolders(audio),
        suffixes=suffixes_in(audio),
        max_seconds=spec.max_seconds,
    )


def run(spec: SpeechSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `speech` from the raw artifact `raw`."""
    job = job_of(spec, sources.roots(context.inputs["raw"]))
    return build_as(spec, job, description=DESCRIPTION, context=context)


def _layout(path: str) -> str:
    if path.endswith(".trans.txt"):
        return LIBRISPEECH
    first = next(tables.lines(path), "") if path.lower().endswith(".csv") else ""
    return LJSPEECH if first.count("|") == 2 else TABLE


def _split_lines(path: str, separator: str, names: Sequence[str]) -> Iterator[tables.Item]:
    for index, line in enumerate(tables.lines(path)):
        if not line.strip():
            continue
        cells = line.split(separator, len(names) - 1)
        if len(cells) != len(names):
            yield index, BadRecord("cell_count", f"{line[:60]!r}; expected {separator.join(names)}")
        else:
            yield index, dict(zip(names, cells, strict=True))
