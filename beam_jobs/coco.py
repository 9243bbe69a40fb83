"""Stage `build-coco`: the `coco_all` dataset, one example per image with its captions, VQA v2 questions and boxes.

    image: original JPEG bytes    image/filename: text    image/id: int64
    captions: {num, id[n], text[n]}
    vqa:      {num, id[n], questions[n], answers[n, 10]}
    objects:  [{area, bbox (ymin, xmin, ymax, xmax in 0..1), id, is_crowd, label,
                keypoints [17, 3] (x, y in pixels, visibility 0, 1, 2; zeros where none), num_keypoints,
                mask (PNG of the image's size, 255 inside; b"" unless asked for)}]

With `max_side`, keypoints, masks and areas are those of the scaled image.

Images of `*_train*` files become `train`, of `*_val*` files `validation`. VQA questions join by image id whatever
their file's split, for VQA v2 says "train2014" of images that the 2017 split moved. Keypoints of `person_keypoints*`
files join objects by annotation id; where there is no instances file of their split, theirs are the objects. An image
without captions, questions or boxes is kept with empty lists; lists are ordered by id.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs import coco_rows, coco_shapes, sources
from beam_jobs.build import build_as
from beam_jobs.dead_letters import Letter
from beam_jobs.image_files import image_bases, image_names, read_image
from beam_jobs.job import Info, Record, Row
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_COCO, CocoSpec
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageContext, StageError

NAME = "coco_all"
SPLITS = {"train": "train", "val": "validation"}
DESCRIPTION = "COCO images with captions, VQA v2 questions and objects, joined by image id; original image bytes."
_ANNOTATIONS = re.compile(r"(instances|captions|person_keypoints)_((train|val)(2014|2017)?)\.json")
_QUESTIONS = re.compile(r"(?:v2_)?OpenEnded_mscoco_(\w+)_questions\.json")


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One annotation file: `kind` is instances, captions, poses, questions or answers; `split` "" for VQA."""

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
      masks: whether masks are drawn.
      max_side: longer sides are scaled down to it.
    """

    files: tuple[SourceFile, ...]
    images: str
    folders: tuple[str, ...]
    max_pixels: int
    masks: bool = False
    max_side: int | None = None
    name: str = NAME
    record_kind: str = "image"
    join_kinds: tuple[str, ...] = ("image", "object", "pose", "caption", "question", "answer")

    def sources(self) -> Sequence[SourceFile]:
        return self.files

    def read(self, source: SourceFile) -> Iterator[Row | Letter | Info]:
        match source.kind:
            case "instances":
                return coco_rows.instances(source.path, split=source.split, folder=source.folder, masks=self.masks)
            case "poses":
                return coco_rows.poses(source.path)
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
            drops = {kind: len(rows[kind]) for kind in ("object", "pose", "caption", "question") if rows[kind]}
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
        objects, letters = coco_rows.join_objects(key, rows["object"], image, labels(info), rows["pose"])
        yield from letters
        captions, letters = coco_rows.join_captions(key, rows["caption"])
        yield from letters
        questions, letters = coco_rows.join_questions(key, rows["question"], rows["answer"])
        yield from letters
        counts = {
            "image": 1,
            "object": len(objects),
            "pose": sum(1 for o in objects if o["keypoints"]),
            "caption": len(captions),
            "question": len(questions),
        }
        value = {"id": key, "image": image, "objects": objects, "captions": captions, "questions": questions}
        yield Record(image["split"], str(key), value, {k: n for k, n in counts.items() if n}, image["source"])

    def encode(self, record: Record) -> bytes:
        value = record.value
        image = value["image"]
        width, height = image["width"], image["height"]
        bases = image_bases(self.images, (image["folder"], *self.folders))
        names = image_names(value["id"], image["file_name"])
        stored = read_image(
            bases,
            names,
            max_pixels=self.max_pixels,
            max_side=self.max_side,
            size=(width, height),
        )
        scaled_to = (stored.width, stored.height)
        objects = coco_shapes.scaled(value["objects"], image, stored)
        captions, questions = value["captions"], value["questions"]
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
                "objects/num_keypoints": [coco_shapes.visible(o["keypoints"]) for o in objects],
            },
            floats={
                "objects/bbox": [v for o in objects for v in o["bbox"]],
                "objects/keypoints": [v for o in objects for v in o["keypoints"] or coco_shapes.NO_POSE],
            },
            strings={
                "image": [stored.data],
                "image/filename": [image["file_name"]],
                "objects/mask": [
                    coco_shapes.mask_png(o["outline"], width=width, height=height, scaled_to=scaled_to) for o in objects
                ],
                "captions/text": [c["text"] for c in captions],
                "vqa/questions": [q["text"] for q in questions],
                "vqa/answers": [a for q in questions for a in q["answers"]],
            },
        ).to_bytes()

    def count(self, example: Example) -> Mapping[str, int]:
        return {
            "image": 1,
            "object": len(example.ints["objects/id"]),
            "pose": sum(1 for n in example.ints["objects/num_keypoints"] if n),
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
                        "keypoints": f.Tensor(shape=(coco_shapes.KEYPOINTS, 3), dtype=np.float32),
                        "num_keypoints": np.int64,
                        "mask": f.Text(),
                    }
                ),
            }
        )


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_COCO, options)


def job_of(spec: CocoSpec, roots: Mapping[str, AnyPlace]) -> CocoJob:
    """The job of a recipe on the files of `roots`."""
    images = sources.required(roots, "images", wanted_by="build-coco")
    annotations = sources.required(roots, "annotations", wanted_by="build-coco")
    files = [*annotation_files(annotations), *(vqa_files(roots["vqa"]) if "vqa" in roots else [])]
    return CocoJob(
        tuple(files), str(images), sources.subfolders(images), spec.max_pixels, spec.masks, max_side=spec.max_side
    )


def run(spec: CocoSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `coco_all` from the raw artifact `raw`."""
    roots = sources.roots(context.inputs["raw"])
    stats = build_as(spec, job_of(spec, roots), description=DESCRIPTION, context=context)
    questions = stats["records"].get("question", {"in": 0, "written": 0, "over_limit": 0})
    if questions["in"] and not questions["written"] + questions["over_limit"]:
        raise StageError(
            f"vqa = {roots['vqa']}: none of its {questions['in']} questions belongs to an image of "
            f"{roots['annotations']}; give the VQA files of these images, or leave vqa out"
        )
    return stats


def annotation_files(root: AnyPlace) -> list[SourceFile]:
    """Files to read; where 2014 and 2017 files lie together, those of the newest year alone (they overlap)."""
    found = [(m, path) for path in sources.walk(root) if (m := _ANNOTATIONS.fullmatch(path.name))]
    if not found:
        raise StageError(
            f"annotations = {root}: no instances_*.json, captions_*.json or person_keypoints_*.json for a train or "
            "val split; expected COCO's annotation files, for example instances_train2017.json"
        )
    year = max(m[4] or "" for m, _ in found)
    files = []
    boxed = {m[2] for m, _ in found if m[1] == "instances"}
    for m, path in found:
        if (m[4] or "") != year:
            continue
        kinds = (m[1],) if m[1] != "person_keypoints" else ("poses",) if m[2] in boxed else ("poses", "instances")
        files += [SourceFile(kind, str(path), SPLITS[m[3]], m[2]) for kind in kinds]
    return files


def vqa_files(root: AnyPlace) -> list[SourceFile]:
    """VQA v2 questions files with their annotations; a test split's questions, which have none, are left out."""
    files = []
    # As downloaded, each of them is in a zip of its own.
    there = {path.name: path for path in sources.walk(root)}
    for path in there.values():
        if m := _QUESTIONS.fullmatch(path.name):
            prefix = "v2_" if path.name.startswith("v2_") else ""
            if answers := there.get(f"{prefix}mscoco_{m[1]}_annotations.json"):
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
                f"category {category['id']} is {names[category['id']]!r} in one place and "
                f"{category['name']!r} in another; the annotations do not belong together"
            )
    return dict(sorted(names.items()))


def labels(info: Mapping[str, Sequence[Any]]) -> dict[int, int]:
    """Contiguous labels by category id (COCO's ids have gaps)."""
    return {category: label for label, category in enumerate(category_names(info))}


def rows_source(rows: Mapping[str, Sequence[Any]]) -> str:
    """The place of the first row, for dead letters."""
    return min((value["source"] for values in rows.values() for value in values), default="")
