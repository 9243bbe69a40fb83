"""Stage `build-vqa-options`: the `vqa_options` dataset, one example per image with questions that offer options.

    image: original bytes    image/id: int64
    questions: [{id: int64, question: text, options: [text], answer: int64 (index into options)}]      by id

Sources are tables like A-OKVQA's JSON (`image_id, question_id, question, choices, correct_choice_idx`), or with the
image's file instead of its id, and `options` and `answer` (an index, or one of the options). Ids that are no numbers
become 63-bit hashes of their text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs import coco_rows, sources, tables
from beam_jobs.build import build_as
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.image_files import image_bases, image_names, read_image
from beam_jobs.job import Info, Record, Row
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_VQA_OPTIONS, VqaOptionsSpec
from beam_jobs.splits import hashed_split, named_split, number_of
from beam_jobs.table_job import TableFile, table_files
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageContext

NAME = "vqa_options"
FILE = ("image", "file_name", "file", "image_path")
OPTIONS = ("options", "choices")
ANSWER = ("correct_choice_idx", "answer", "answer_idx", "label")
EXPECTED = "A-OKVQA's JSON, or tables with image_id (or image), question, options and answer"
DESCRIPTION = "Images with questions that offer options; original image bytes."


@dataclasses.dataclass(frozen=True)
class VqaOptionsJob:
    """Settings and paths of one build; `folders` are those below `images`."""

    files: tuple[TableFile, ...]
    images: str
    folders: tuple[str, ...]
    max_pixels: int
    validation_fraction: float
    max_side: int | None = None
    name: str = NAME
    record_kind: str = "image"
    join_kinds: tuple[str, ...] = ("question",)

    def sources(self) -> Sequence[TableFile]:
        return self.files

    def read(self, source: TableFile) -> Iterator[Row | Letter | Info]:
        for index, item in tables.rows(source.path):
            place = f"{source.name}:[{index}]"
            try:
                if isinstance(item, BadRecord):
                    raise item
                image, value = _question(item, split=source.split)
                yield Row(str(image), "question", {**value, "image": image, "source": place}, {"question": 1})
            except BadRecord as bad:
                key = f"{source.name}:{index}"
                yield Letter(key, "question", "read", bad.reason, bad.error, place, {"question": 1}, fault=bad.fault)

    def assemble(
        self, key: str, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        image = rows["question"][0]["image"]
        fallback = hashed_split(key, validation_fraction=self.validation_fraction)
        by_split: dict[str, list[Any]] = {}
        for row in rows["question"]:
            by_split.setdefault(row["split"] or fallback, []).append(row)
        for split, mine in sorted(by_split.items()):
            make = lambda row: {k: row[k] for k in ("id", "question", "options", "answer")}  # noqa: E731
            questions, letters = coco_rows.joined(key, mine, "question", make)
            yield from letters
            value = {"image": image, "questions": questions}
            source = min(row["source"] for row in mine)
            yield Record(split, key, value, {"image": 1, "question": len(questions)}, source)

    def encode(self, record: Record) -> bytes:
        image, questions = record.value["image"], record.value["questions"]
        number = image if isinstance(image, int) else number_of(image)
        names = image_names(image, f"{image:012d}.jpg") if isinstance(image, int) else [image]
        bases = image_bases(self.images, self.folders)
        stored = read_image(bases, names, max_pixels=self.max_pixels, max_side=self.max_side, must_exist=False)
        return Example(
            ints={
                "image/id": [number],
                "questions/id": [q["id"] for q in questions],
                "questions/answer": [q["answer"] for q in questions],
                "questions/options/ragged_row_lengths_0": [len(q["options"]) for q in questions],
            },
            strings={
                "image": [stored.data],
                "questions/question": [q["question"] for q in questions],
                "questions/options/ragged_flat_values": [o for q in questions for o in q["options"]],
            },
        ).to_bytes()

    def count(self, example: Example) -> Mapping[str, int]:
        return {"image": 1, "question": len(example.ints["questions/id"])}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import numpy as np
        import tensorflow_datasets as tfds

        f = tfds.features
        question = {"id": np.int64, "question": f.Text(), "options": f.Sequence(f.Text()), "answer": np.int64}
        return f.FeaturesDict(
            {
                "image": f.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "image/id": np.int64,
                "questions": f.Sequence(question),
            }
        )


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_VQA_OPTIONS, options)


def job_of(spec: VqaOptionsSpec, roots: Mapping[str, AnyPlace]) -> VqaOptionsJob:
    """The job of a recipe on the files of `roots`."""
    images = sources.required(roots, "images", wanted_by="build-vqa-options")
    annotations = sources.required(roots, "annotations", wanted_by="build-vqa-options")
    return VqaOptionsJob(
        table_files(annotations, role="annotations", expected=EXPECTED),
        str(images),
        sources.subfolders(images),
        spec.max_pixels,
        spec.validation_fraction,
        spec.max_side,
    )


def run(spec: VqaOptionsSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `vqa_options` from the raw artifact `raw`."""
    job = job_of(spec, sources.roots(context.inputs["raw"]))
    return build_as(spec, job, description=DESCRIPTION, context=context)


def _question(row: Mapping[str, Any], *, split: str) -> tuple[int | str, dict[str, Any]]:
    image = _number(row["image_id"]) if row.get("image_id") not in (None, "") else tables.text_of(row, FILE)
    question, options = tables.text_of(row, ("question",)), tables.texts_of(row, OPTIONS, separators="|")
    split = named_split(str(row.get("split") or "")) or split
    if len(options) < 2:
        raise BadRecord("too_few_options", f"{options}; expected at least two")
    if tables.pick(row, ANSWER) is None:
        # The published test split keeps its answers to itself.
        raise BadRecord("no_answer", f"none of {', '.join(ANSWER)}", fault=split != "test")
    name = row.get("question_id", row.get("id"))
    identity = _number(name) if name is not None else number_of(f"{image}/{question}")
    number = identity if isinstance(identity, int) else number_of(identity)
    answer = _answer(tables.pick(row, ANSWER), options)
    return image, {"id": number, "question": question, "options": options, "answer": answer, "split": split}


def _answer(given: Any, options: Sequence[str]) -> int:
    """The index of the right option, given as an index or as its text."""
    if isinstance(given, str) and given.strip() in options:
        return options.index(given.strip())
    number = _number(given)
    if not isinstance(number, int) or not 0 <= number < len(options):
        raise BadRecord("bad_answer", f"{given!r:.80} is neither an index of, nor one of, {list(options)}")
    return number


def _number(value: Any) -> int | str:
    """A whole number where the value is or spells one, else its text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = coco_rows.checked_text(str(value).strip())
    return int(text) if text.isascii() and text.isdigit() else text
