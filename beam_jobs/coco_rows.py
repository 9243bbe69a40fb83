"""COCO and VQA v2 annotations as rows by image id, and the joining of one image's rows.

Each reader streams one file and judges items one by one: an item that cannot be used becomes a dead letter, not an
exception. Each join returns the good values ordered by id, and letters for the rest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from beam_jobs import coco_shapes
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.job import Info, Row
from beam_jobs.json_stream import stream

ANSWERS = 10
_THINNEST = 1e-6


def instances(path: str, *, split: str, folder: str, masks: bool = False) -> Iterator[Row | Letter | Info]:
    """Images, objects and categories of an `instances_*.json`; with `masks`, outlines go along with the objects."""
    for section, index, item in stream(path, sections={"images", "annotations", "categories"}):
        place = source_place(path, section, index)
        if section == "images":
            yield from _guarded(lambda i, p: image_row(i, p, split=split, folder=folder), item, place, "image")
        elif section == "annotations":
            yield from _guarded(lambda i, p: object_row(i, p, masks=masks), item, place, "object")
        else:
            yield from _guarded(_category, item, place, "category")


def captions(path: str, *, split: str, folder: str) -> Iterator[Row | Letter | Info]:
    """Images and captions of a `captions_*.json`."""
    for section, index, item in stream(path, sections={"images", "annotations"}):
        place = source_place(path, section, index)
        if section == "images":
            yield from _guarded(lambda i, p: image_row(i, p, split=split, folder=folder), item, place, "image")
        else:
            yield from _guarded(_caption_row, item, place, "caption")


def poses(path: str) -> Iterator[Row | Letter | Info]:
    """Keypoints of a `person_keypoints_*.json`; people without a labelled one, and its images, are left out."""
    for section, index, item in stream(path, sections={"annotations"}):
        if not _without_pose(item):
            yield from _guarded(_pose_row, item, source_place(path, section, index), "pose")


def questions(path: str) -> Iterator[Row | Letter | Info]:
    """Questions of a VQA v2 questions file."""
    for section, index, item in stream(path, sections={"questions"}):
        yield from _guarded(_question_row, item, source_place(path, section, index), "question")


def answers(path: str) -> Iterator[Row | Letter | Info]:
    """Answers of a VQA v2 annotations file; they join their questions, so they are not counted themselves."""
    for section, index, item in stream(path, sections={"annotations"}):
        yield from _guarded(_answer_row, item, source_place(path, section, index), "answer")


def source_place(path: str, section: str, index: int) -> str:
    """Where an item stands, without the folder, which may differ between equal builds."""
    return f"{os.path.basename(path)}:{section}[{index}]"


def _guarded(make: Callable[[Any, str], Any], item: Any, place: str, kind: str) -> Iterator[Any]:
    try:
        yield make(item, place)
    except BadRecord as bad:
        drops = {} if kind in ("answer", "category") else {kind: 1}
        key = item.get("id", item.get("question_id", "?")) if isinstance(item, dict) else "?"
        yield Letter(str(key), kind, "read", bad.reason, bad.error, place, drops)


def field(item: Any, name: str, kind: type) -> Any:
    """A required field of the right type (`int` refuses booleans and accepts 3.0)."""
    if not isinstance(item, dict):
        raise BadRecord("not_an_object", f"expected an object with {name!r}, found {type(item).__name__}")
    if name not in item:
        raise BadRecord("missing_field", f"no {name!r}; it has {sorted(item)}")
    value = item[name]
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if (isinstance(value, bool) and kind is not bool) or not isinstance(value, kind):
        raise BadRecord("wrong_type", f"{name} = {value!r}; expected {kind.__name__}")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise BadRecord("out_of_range", f"{name} = {value} does not fit into 64 bits")
    return value


def _category(item: Any, place: str) -> Info:
    return Info("category", {"id": field(item, "id", int), "name": checked_text(field(item, "name", str))})


def image_row(item: Any, place: str, *, split: str, folder: str) -> Row:
    """An entry of an `images` section."""
    image_id = field(item, "id", int)
    width, height = field(item, "width", int), field(item, "height", int)
    if width < 1 or height < 1:
        raise BadRecord("bad_size", f"width = {width}, height = {height}")
    return Row(
        image_id,
        "image",
        {
            "split": split,
            "folder": folder,
            "file_name": checked_text(field(item, "file_name", str)),
            "width": width,
            "height": height,
            "source": place,
        },
    )


def object_row(item: Any, place: str, *, masks: bool = False) -> Row:
    """An object annotation; its outline only where masks are wanted, for it is the bulk of the file."""
    box = checked_box(field(item, "bbox", list))
    area = item.get("area", box[2] * box[3])
    if not isinstance(area, (int, float)) or not math.isfinite(area):
        raise BadRecord("bad_area", f"area = {area!r}")
    value = {
        "id": field(item, "id", int),
        "category": field(item, "category_id", int),
        "bbox": box,
        "area": int(area),
        "crowd": int(bool(item.get("iscrowd", 0))),
        "source": place,
    }
    if masks:
        value["outline"] = coco_shapes.outline(item.get("segmentation"))
    return Row(field(item, "image_id", int), "object", value, {"object": 1})


def checked_box(box: list[Any]) -> list[Any]:
    """The box, if it is four finite numbers."""
    if len(box) != 4 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box):
        raise BadRecord("bad_box", f"bbox = {box}; expected four finite numbers")
    return box


def _without_pose(item: Any) -> bool:
    """Whether it is a person of whom no keypoint is labelled, as most people of COCO are."""
    values = item.get("keypoints") if isinstance(item, dict) else None
    return isinstance(values, list) and not any(values[2::3])


def _pose_row(item: Any, place: str) -> Row:
    value = {
        "id": field(item, "id", int),
        "keypoints": coco_shapes.checked_keypoints(field(item, "keypoints", list)),
        "source": place,
    }
    return Row(field(item, "image_id", int), "pose", value, {"pose": 1})


def _caption_row(item: Any, place: str) -> Row:
    text = " ".join(field(item, "caption", str).split())
    if not text:
        raise BadRecord("empty_caption", "the caption is blank")
    return Row(
        field(item, "image_id", int),
        "caption",
        {"id": field(item, "id", int), "text": checked_text(text), "source": place},
        {"caption": 1},
    )


def _question_row(item: Any, place: str) -> Row:
    text = checked_text(field(item, "question", str))
    if not text.strip():
        raise BadRecord("empty_question", "the question is blank")
    value = {"id": field(item, "question_id", int), "text": text, "source": place}
    return Row(field(item, "image_id", int), "question", value, {"question": 1})


def _answer_row(item: Any, place: str) -> Row:
    given = [checked_text(field(a, "answer", str)) for a in field(item, "answers", list)]
    if len(given) != ANSWERS:
        raise BadRecord("answer_count", f"{len(given)} answers; VQA v2 has {ANSWERS}")
    return Row(
        field(item, "image_id", int),
        "answer",
        {"id": field(item, "question_id", int), "answers": given, "source": place},
    )


def checked_text(text: str) -> str:
    """Text that can be stored: bytes that are not UTF-8, and the lone surrogates that JSON can spell, are refused."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise BadRecord("bad_text", f"{text!r:.200}: bytes that are not UTF-8, or a lone surrogate") from e
    return text


def one_image(key: int, rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], list[Letter]]:
    """The entry to keep of an image that several files list.

    Instances and captions files of one split both list it: that is one image. Listed twice in one file, or in
    two splits (the validation entry stays, so that benchmarks keep their images), the others are dropped.
    """
    ordered = sorted(rows, key=lambda r: (r["split"] != "validation", r["source"]))
    kept, letters, files = ordered[0], [], {ordered[0]["source"].partition(":")[0]}
    splits = {kept["split"]}
    for row in ordered[1:]:
        file = row["source"].partition(":")[0]
        if row["split"] not in splits:
            splits.add(row["split"])
            letters.append(
                _image_letter(key, row, "image_in_two_splits", f"also in {kept['split']} ({kept['source']})")
            )
        elif file in files:
            letters.append(_image_letter(key, row, "duplicate_image", f"the same id as {kept['source']}"))
        files.add(file)
    return kept, letters


def _image_letter(key: int, row: Mapping[str, Any], reason: str, error: str) -> Letter:
    return Letter(str(key), "image", "join", reason, error, row["source"], {"image": 1})


def join_objects(
    key: int,
    rows: Sequence[Mapping[str, Any]],
    image: Mapping[str, Any],
    labels: Mapping[int, int],
    poses: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[dict], list[Letter]]:
    """Objects with normalised boxes, contiguous labels, their keypoints and checked outlines."""
    by_id = {pose["id"]: pose["keypoints"] for pose in sorted(poses, key=lambda p: p["source"], reverse=True)}

    def make(row: Mapping[str, Any]) -> dict[str, Any]:
        if row["category"] not in labels:
            raise BadRecord("unknown_category", f"category_id = {row['category']} is not in the categories section")
        return {
            "id": row["id"],
            "area": row["area"],
            "crowd": row["crowd"],
            "label": labels[row["category"]],
            "bbox": normalised_box(row["bbox"], width=image["width"], height=image["height"]),
            "keypoints": by_id.get(row["id"], []),
            "outline": coco_shapes.fitting(row.get("outline"), width=image["width"], height=image["height"]),
        }

    objects, letters = joined(key, rows, "object", make)
    return objects, [*letters, *_lost_poses(key, poses, objects)]


def _lost_poses(key: int, poses: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]]) -> list[Letter]:
    """Keypoints whose object is not there (it was dropped, or another file lacks it), or that came twice."""
    there, letters = {o["id"] for o in objects}, []
    for pose in sorted(poses, key=lambda p: p["source"]):
        if pose["id"] in there:
            there.remove(pose["id"])
            continue
        error = f"annotation {pose['id']} is no usable object of the image, or has keypoints already"
        letters.append(Letter(f"{key}/{pose['id']}", "pose", "join", "no_object", error, pose["source"], {"pose": 1}))
    return letters


def normalised_box(box: Sequence[float], *, width: int, height: int) -> list[float]:
    """x, y, width, height in pixels -> ymin, xmin, ymax, xmax in 0..1, cut off at the image's edge.

    Raises:
      BadRecord: `empty_box`: no area is left, or none that 32-bit numbers could say.
    """
    x, y, w, h = box
    ymin, xmin = max(0.0, y / height), max(0.0, x / width)
    ymax, xmax = min(1.0, (y + h) / height), min(1.0, (x + w) / width)
    if min(ymax - ymin, xmax - xmin) < _THINNEST:
        raise BadRecord("empty_box", f"bbox = {list(box)} has no area inside the {width} x {height} image")
    return [ymin, xmin, ymax, xmax]


def join_captions(key: int, rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict], list[Letter]]:
    """Captions by id."""
    return joined(key, rows, "caption", lambda row: {"id": row["id"], "text": row["text"]})


def join_questions(
    key: int, rows: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]
) -> tuple[list[dict], list[Letter]]:
    """Questions with the ten answers of their id; answers that come twice, or to no question, become letters."""
    asked = {row["id"] for row in rows}
    by_id: dict[int, list[str]] = {}
    lost = []
    for a in sorted(given, key=lambda a: a["source"]):
        if a["id"] not in asked:
            error = f"no usable question {a['id']} is asked about the image"
            lost.append(Letter(f"{key}/{a['id']}", "answer", "join", "no_question", error, a["source"], {}))
        elif by_id.setdefault(a["id"], a["answers"]) is not a["answers"]:
            error = f"question {a['id']} is answered twice; the first answers stay"
            lost.append(Letter(f"{key}/{a['id']}", "answer", "join", "duplicate_id", error, a["source"], {}))

    def make(row: Mapping[str, Any]) -> dict[str, Any]:
        if row["id"] not in by_id:
            raise BadRecord("no_answers", f"question {row['id']} has no usable answers in the annotations files")
        return {"id": row["id"], "text": row["text"], "answers": by_id[row["id"]]}

    questions, letters = joined(key, rows, "question", make)
    return questions, [*letters, *lost]


def joined(
    key: int | str, rows: Sequence[Mapping[str, Any]], kind: str, make: Callable[[Mapping[str, Any]], dict]
) -> tuple[list[dict], list[Letter]]:
    """`make` of each row in the order of ids; repeated ids and rows that `make` refuses become letters."""
    good, letters, seen = [], [], set()
    for row in sorted(rows, key=lambda r: (r["id"], r["source"])):
        try:
            if row["id"] in seen:
                raise BadRecord("duplicate_id", f"{kind} id {row['id']} occurs twice")
            seen.add(row["id"])
            good.append(make(row))
        except BadRecord as bad:
            letters.append(Letter(f"{key}/{row['id']}", kind, "join", bad.reason, bad.error, row["source"], {kind: 1}))
    return good, letters
