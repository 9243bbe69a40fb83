"""Stage `build-video`: the `video_captions` dataset, one example per clip: frames, sound, what is said about it.

    key: text    frames: [JPEG bytes], of one size, oldest first    seconds: float32, length of the clip
    audio: WAV bytes, b"" where there is none    captions: [text]    labels: [text]
    qa: [{question: text, answers: [text]}]

Sources are tables with a clip (`file`: a folder of frames, an animation or a video file) and `captions`, `labels`,
`qa` or `question` and `answer`; also `seconds` or `fps`, and `audio` (a sound file; without, a WAV of the clip's name
counts, else the sound track of a video file, which is mixed to one channel).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from beam_jobs import sources, tables
from beam_jobs.build import build_as
from beam_jobs.clips import read_clip
from beam_jobs.dead_letters import BadRecord
from beam_jobs.frames import FrameSettings
from beam_jobs.job import Record
from beam_jobs.request import BuildOptions, make
from beam_jobs.sound_files import as_wav
from beam_jobs.specs import BUILD_VIDEO, VideoSpec
from beam_jobs.splits import named_split
from beam_jobs.table_job import Parsed, TableFile, TableJob, table_files
from beam_jobs.tf_example import Example
from beam_jobs.video_files import read_clip as read_frames
from beam_jobs.video_files import sound_of
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageContext

NAME = "video_captions"
FILE = ("file", "file_name", "video", "path", "clip", "video_id")
CAPTIONS = ("captions", "caption", "text", "texts")
LABELS = ("labels", "label", "tags", "category", "class")
ANSWERS = ("answers", "answer")
EXPECTED = "a table with a file (of frames or video) and captions, labels or questions"
DESCRIPTION = "Clips as frames and sound, with captions, labels and questions."


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoJob(TableJob):
    """Settings and paths of one build; `bases` are folders to look for clips in."""

    bases: tuple[str, ...]
    frames: FrameSettings
    name: str = NAME
    record_kind: str = "clip"
    row_kind: str = "clip"

    def parse(self, row: Mapping[str, Any], source: TableFile, index: int) -> Parsed:
        file = tables.text_of(row, FILE)
        captions = tables.texts_of(row, CAPTIONS)
        labels = [label.replace("_", " ") for label in tables.texts_of(row, LABELS, separators=";|")]
        questions = _questions(row)
        if not captions and not labels and not questions:
            raise BadRecord("empty_text", f"{file}: no caption, label or question")
        value = {
            "file": file,
            "audio": tables.text_of(row, ("audio", "sound"), required=False),
            "seconds": _positive(row, "seconds"),
            "rate": _positive(row, "fps"),
            "captions": captions,
            "labels": labels,
            "qa": questions,
        }
        counts = {"caption": len(captions), "label": len(labels), "question": len(questions)}
        split = named_split(tables.text_of(row, ("split",), required=False))
        return Parsed(file, value, {k: n for k, n in counts.items() if n}, split=split)

    def encode(self, record: Record) -> bytes:
        value = record.value
        with sources.on_disk(_find(self.bases, value["file"])) as path:
            clip = read_frames(path, self.frames, seconds=value["seconds"], rate=value["rate"])
            sound = self._sound(value, path)
        return Example(
            ints={"qa/answers/ragged_row_lengths_0": [len(q["answers"]) for q in value["qa"]]},
            floats={"seconds": [clip.seconds]},
            strings={
                "key": [record.key],
                "frames": clip.frames,
                "audio": [sound],
                "captions": value["captions"],
                "labels": value["labels"],
                "qa/question": [q["question"] for q in value["qa"]],
                "qa/answers/ragged_flat_values": [a for q in value["qa"] for a in q["answers"]],
            },
        ).to_bytes()

    def _sound(self, value: Mapping[str, Any], path: str) -> bytes:
        names = [value["audio"]] if value["audio"] else [str(PurePosixPath(value["file"]).with_suffix(".wav"))]
        try:
            data = read_clip(self.bases, names)
        except BadRecord as bad:
            if bad.reason != "audio_missing" or value["audio"]:
                raise
            return sound_of(path, max_seconds=self.frames.max_seconds)
        return as_wav(data, max_seconds=self.frames.max_seconds).data

    def count(self, example: Example) -> Mapping[str, int]:
        kinds = {"caption": "captions", "label": "labels", "question": "qa/question"}
        return {"clip": 1, **{kind: len(example.strings[name]) for kind, name in kinds.items()}}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import numpy as np
        import tensorflow_datasets as tfds

        f = tfds.features
        return f.FeaturesDict(
            {
                "key": f.Text(),
                "frames": f.Sequence(f.Text()),
                "seconds": np.float32,
                "audio": f.Tensor(shape=(), dtype=np.str_),
                "captions": f.Sequence(f.Text()),
                "labels": f.Sequence(f.Text()),
                "qa": f.Sequence({"question": f.Text(), "answers": f.Sequence(f.Text())}),
            }
        )


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_VIDEO, options)


def job_of(spec: VideoSpec, roots: Mapping[str, AnyPlace]) -> VideoJob:
    """The job of a recipe on the files of `roots`."""
    video = sources.required(roots, "video", wanted_by="build-video")
    role = "annotations" if "annotations" in roots else "video"
    settings = {field.name: getattr(spec, field.name) for field in dataclasses.fields(FrameSettings)}
    return VideoJob(
        files=table_files(roots[role], role=role, expected=EXPECTED),
        validation_fraction=spec.validation_fraction,
        bases=(str(video), *(f"{str(video).rstrip('/')}/{name}" for name in sources.subfolders(video))),
        frames=FrameSettings(**settings),
    )


def run(spec: VideoSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `video_captions` from the raw artifact `raw`."""
    job = job_of(spec, sources.roots(context.inputs["raw"]))
    return build_as(spec, job, description=DESCRIPTION, context=context)


def _questions(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = row.get("qa")
    if given is None:
        given = [row] if row.get("question") else []
    if not isinstance(given, list) or not all(isinstance(item, Mapping) for item in given):
        raise BadRecord("wrong_type", f"qa = {given!r:.80}; expected a list of objects with question and answers")
    found = []
    for item in given:
        answers = tables.texts_of(item, ANSWERS)
        if not answers:
            raise BadRecord("no_answers", f"{item.get('question')!r:.80} has no answer")
        found.append({"question": tables.text_of(item, ("question",)), "answers": answers})
    return found


def _positive(row: Mapping[str, Any], name: str) -> float:
    """A number above 0, or 0 where the row has none."""
    value = row.get(name)
    if value in (None, ""):
        return 0.0
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise BadRecord("bad_number", f"{name} = {value!r}; expected a number above 0")
    return number


def _find(bases: Sequence[str], name: str) -> str:
    for base in sources.existing(bases):
        try:
            path = sources.member(base, name)
        except sources.PathEscape as e:
            raise BadRecord("path_escape", str(e)) from e
        if sources.is_file(path) or sources.is_dir(path):
            return path
    raise BadRecord("clip_missing", f"{name} is in no folder of the source")
