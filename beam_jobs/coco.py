"""Stage `build-coco`: the `coco_all` dataset, one example per image with its captions, VQA v2 questions and boxes.

    image: original JPEG bytes    image/filename: text    image/id: int64
    captions: {num, id[n], text[n]}
    vqa:      {num, id[n], questions[n], answers[n, 10]}
    objects:  [{area, bbox (ymin, xmin, ymax, xmax in 0..1), id, is_crowd, label}]

Images of `*_train*` files become `train`, of `*_val*` files `validation`. VQA questions join by image id whatever
their file's split, for VQA v2 says "train2014" of images that the 2017 split moved. An image without captions,
questions or boxes is kept with empty lists; lists are ordered by id.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_jobs import coco_rows, sources
from beam_jobs.build import build
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.images import check_image
from beam_jobs.job import Info, Record, Row
from beam_jobs.specs import CocoSpec
from beam_jobs.tf_example import Example
from uio2.pipeline.stage import StageContext, StageError

NAME = "coco_all"
SPLITS = {"train": "train", "val": "validation"}
DESCRIPTION = "COCO images with captions, VQA v2 questions and objects, joined by image id; original image bytes."
_ANNOTATIONS = re.compile(r"(instances|captions)_((train|val)(2014|2017)?)\.json")
_QUESTIONS = re.compile(r"(?:v2_)?OpenEnded_mscoco_(\w+)_questions\.json")


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One annotation file: `kind` is instances, captions, questions or answers; `split` "" for VQA."""

    kind: str
    path: str
    split: str
    folder: str


@dataclasses.dataclass(frozen=True)
class CocoJob:
    """Settings and paths of one build.

    Attributes:
      files: annotation files to read.
      images: the root of the image files.
      folders: its subfolders, any of which may hold an image.
      max_pixels: larger images are refused.
    """

    files: tuple[SourceFile, ...]
    images: str
    folders: tuple[str, ...]
    max_pixels: int
    name: str = NAME
    record_kind: str = "image"
    join_kinds: tuple[str, ...] = ("image", "object", "caption", "question", "answer")

    def sources(self) -> Sequence[SourceFile]:
        return self.files

    def read(self, source: SourceFile) -> Iterator[Row | Letter | Info]:
        match source.kind:
            case "instances":
                return coco_rows.instances(source.path, split=source.split, folder=source.folder)
            case "captions":
                return coco_rows.captions(source.path, split=source.split, folder=source.folder)
            case "questions":
                return coco_rows.questions(source.path)
            case "answers":
                return coco_rows.answers(source.path)
        raise StageError(f"{source.path}: unknown kind of annotation file {source.kind!r}")

    def assemble(
        self, key: int, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        if not rows["image"]:
            drops = {kind: len(rows[kind]) for kind in ("object", "caption", "question") if rows[kind]}
            yield Letter(
                str(key),
                "annotation",
                "join",
                "image_not_listed",
                "annotations of an image that no images section lists",
                str(rows_source(rows)),
                drops,
                fault=False,
            )
            return
        image, letters = coco_rows.one_image(key, rows["image"])
        yield from letters
        objects, letters = coco_rows.join_objects(key, rows["object"], image, labels(info))
        yield from letters
        captions, letters = coco_rows.join_captions(key, rows["caption"])
        yield from letters
        questions, letters = coco_rows.join_questions(key, rows["question"], rows["answer"])
        yield from letters
        counts = {"image": 1, "object": len(objects), "caption": len(captions), "question": len(questions)}
        value = {"id": key, "image": image, "objects": objects, "captions": captions, "questions": questions}
        yield Record(image["split"], str(key), value, {k: n for k, n in counts.items() if n}, image["source"])

    def encode(self, record: Record) -> bytes:
        value = record.value
        image = value["image"]
        bases = image_bases(self.images, (image["folder"], *self.folders))
        data = read_image(bases, image_names(value["id"], image["file_name"]), image, max_pixels=self.max_pixels)
        objects, captions, questions = value["objects"], value["captions"], value["questions"]
        return Example(
            ints={
                "image/id": [value["id"]],
                "captions/num": [len(captions)],
                "captions/id": [c["id"] for c in captions],
                "vqa/num": [len(questions)],
                "vqa/id": [q["id"] for q in questions],
                "objects/area": [o["area"] for o in objects],
                "objects/id": [o["id"] for o in objects],
                "objects/is_crowd": [o["crowd"] for o in objects],
                "objects/label": [o["label"] for o in objects],
            },
            floats={"objects/bbox": [v for o in objects for v in o["bbox"]]},
            strings={
                "image": [data],
                "image/filename": [image["file_name"]],
                "captions/text": [c["text"] for c in captions],
                "vqa/questions": [q["text"] for q in questions],
                "vqa/answers": [a for q in questions for a in q["answers"]],
            },
        ).to_bytes()

    def count(self, example: Example) -> Mapping[str, int]:
        return {
            "image": 1,
            "object": len(example.ints["objects/id"]),
            "caption": len(example.strings["captions/text"]),
            "question": len(example.strings["vqa/questions"]),
        }

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import numpy as np
        import tensorflow_datasets as tfds

        f = tfds.features
        # A build without instances has no classes; TFDS wants at least one name.
        names = list(category_names(info).values()) or ["object"]
        return f.FeaturesDict(
            {
                "image": f.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "image/filename": f.Text(),
                "image/id": np.int64,
                "captions": {"num": np.int32, "id": f.Sequence(np.int64), "text": f.Sequence(f.Text())},
                "vqa": {
                    "num": np.int32,
                    "id": f.Sequence(np.int64),
                    "questions": f.Sequence(f.Text()),
                    "answers": f.Sequence(f.Tensor(shape=(coco_rows.ANSWERS,), dtype=np.str_)),
                },
                "objects": f.Sequence(
                    {
                        "area": np.int64,
                        "bbox": f.BBoxFeature(),
                        "id": np.int64,
                        "is_crowd": np.bool_,
                        "label": f.ClassLabel(names=names),
                    }
                ),
            }
        )


def run(spec: CocoSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `coco_all` from the raw artifact `raw`."""
    roots = sources.roots(context.inputs["raw"])
    images = sources.required(roots, "images", wanted_by="build-coco")
    annotations = sources.required(roots, "annotations", wanted_by="build-coco")
    files = [*annotation_files(annotations), *(vqa_files(roots["vqa"]) if "vqa" in roots else [])]
    job = CocoJob(tuple(files), str(images), sources.subfolders(images), spec.max_pixels)
    stats = build(
        job,
        num_shards=spec.num_shards,
        limit=spec.limit,
        max_dropped_fraction=spec.max_dropped_fraction,
        version=spec.version,
        description=DESCRIPTION,
        context=context,
    )
    questions = stats["records"].get("question", {"in": 0, "written": 0, "over_limit": 0})
    if questions["in"] and not questions["written"] + questions["over_limit"]:
        raise StageError(
            f"vqa = {roots['vqa']}: none of its {questions['in']} questions belongs to an image of "
            f"{annotations}; give the VQA files of these images, or leave vqa out"
        )
    return stats


def annotation_files(root: Path) -> list[SourceFile]:
    """Instances and captions files; where 2014 and 2017 files lie together, the newest year alone (they overlap)."""
    found = [(m, path) for path in sources.walk(root) if (m := _ANNOTATIONS.fullmatch(path.name))]
    if not found:
        raise StageError(
            f"annotations = {root}: no instances_*.json or captions_*.json for a train or val split; "
            "expected COCO's annotation files, for example instances_train2017.json"
        )
    year = max(m[4] or "" for m, _ in found)
    return [SourceFile(m[1], str(path), SPLITS[m[3]], m[2]) for m, path in found if (m[4] or "") == year]


def vqa_files(root: Path) -> list[SourceFile]:
    """VQA v2 questions files with their annotations; a test split's questions, which have none, are left out."""
    files = []
    for path in sources.walk(root):
        if m := _QUESTIONS.fullmatch(path.name):
            prefix = "v2_" if path.name.startswith("v2_") else ""
            answers = path.with_name(f"{prefix}mscoco_{m[1]}_annotations.json")
            if answers.exists():
                files += [SourceFile("questions", str(path), "", ""), SourceFile("answers", str(answers), "", "")]
    if not files:
        raise StageError(
            f"vqa = {root}: no pair of v2_OpenEnded_mscoco_SPLIT_questions.json and "
            "v2_mscoco_SPLIT_annotations.json; give the folder that holds them, or leave vqa out"
        )
    return files


def category_names(info: Mapping[str, Sequence[Any]]) -> dict[int, str]:
    """Names by category id, in the order of ids, which is the order of labels."""
    names: dict[int, str] = {}
    for category in info.get("category", ()):
        if names.setdefault(category["id"], category["name"]) != category["name"]:
            raise StageError(
                f"category {category['id']} is {names[category['id']]!r} in one file and "
                f"{category['name']!r} in another; the annotation files do not belong together"
            )
    return dict(sorted(names.items()))


def labels(info: Mapping[str, Sequence[Any]]) -> dict[int, int]:
    """Contiguous labels by category id (COCO's ids have gaps)."""
    return {category: label for label, category in enumerate(category_names(info))}


def rows_source(rows: Mapping[str, Sequence[Any]]) -> str:
    """The place of the first row, for dead letters."""
    return min((value["source"] for values in rows.values() for value in values), default="")


def image_bases(root: str, folders: Sequence[str]) -> list[str]:
    """Folders to look for an image in, likeliest first, the root itself last."""
    names = dict.fromkeys(f for f in folders if f)
    return [*(str(Path(root) / name) for name in names), root]


def image_names(image_id: int, file_name: str) -> list[str]:
    """Names an image may go by: as annotated, then as the 2017 and 2014 releases name it."""
    return list(
        dict.fromkeys(
            [
                file_name,
                f"{image_id:012d}.jpg",
                f"COCO_train2014_{image_id:012d}.jpg",
                f"COCO_val2014_{image_id:012d}.jpg",
            ]
        )
    )


def read_image(bases: Sequence[str], names: Sequence[str], image: Mapping[str, Any], *, max_pixels: int) -> bytes:
    """The bytes of an image file that decodes and has the annotated size.

    Raises:
      BadRecord: `path_escape`, `image_missing`, `unreadable`, `size_mismatch`, or a reason of `check_image`.
    """
    try:
        path = sources.find_file([b for b in bases if Path(b).is_dir()], names)
    except sources.PathEscape as e:
        raise BadRecord("path_escape", str(e)) from e
    if path is None:
        raise BadRecord("image_missing", f"{names[0]} is in none of {list(bases)}", fault=image.get("must_exist", True))
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as e:
        raise BadRecord("unreadable", f"{path}: {e.strerror}") from e
    facts = check_image(data, max_pixels=max_pixels)
    annotated = (image["width"], image["height"])
    if annotated != (facts.width, facts.height):
        turned = " (EXIF says it is stored turned)" if facts.orientation > 4 else ""
        raise BadRecord(
            "size_mismatch",
            f"the file is {facts.width} x {facts.height}{turned}, annotated as {annotated[0]} x {annotated[1]}",
        )
    return data
