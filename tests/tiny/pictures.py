"""Small datasets about pictures, as their build stages publish them, made from scenes of digits.

Each holds records that a task has to pass over: no map, nothing measured, no text, no right answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from beam_jobs.digit_scenes import COLOURS, Scene
from tests.tiny import scenes

F = tfds.features
BYTES = F.Tensor(shape=(), dtype=np.str_)
IMAGE = {"image": F.Image(encoding_format="jpeg"), "image/id": np.int64}
DEPTH = F.FeaturesDict({**IMAGE, "depth": BYTES})
NORMALS = F.FeaturesDict({**IMAGE, "normals": BYTES})
REGIONS = F.FeaturesDict(
    {**IMAGE, "regions": F.Sequence({"bbox": F.BBoxFeature(), "id": np.int64, "phrase": F.Text()})}
)
IMAGE_TEXT = F.FeaturesDict({**IMAGE, "texts": F.Sequence(F.Text()), "labels": F.Sequence(F.Text())})
VQA_OPTIONS = F.FeaturesDict({
    **IMAGE,
    "questions": F.Sequence({"id": np.int64, "question": F.Text(), "options": F.Sequence(F.Text()),
                             "answer": np.int64}),
})  # fmt: skip
UNMEASURED_COLUMNS = 16
WALL_MM = 12_000


def coco(folder: Path) -> Path:
    """`coco_all` with keypoints and masks."""
    return scenes.build(folder)["coco"]


def depth(folder: Path) -> Path:
    """Digits stand before a wall that is too far away; the left of each map, and all of every fourth, is unknown."""
    return _write(folder, "image_depth", DEPTH, _depth)


def normals(folder: Path) -> Path:
    """Digits are balls before a wall; the left of each map, and all of every fourth, is unknown."""
    return _write(folder, "image_normals", NORMALS, _normals)


def regions(folder: Path) -> Path:
    """A phrase for each digit, and an empty one; every fourth image has no regions."""
    return _write(folder, "visual_genome", REGIONS, _regions)


def image_text(folder: Path) -> Path:
    """Two texts and a label for each digit; every fourth image has blanks."""
    return _write(folder, "image_text", IMAGE_TEXT, _image_text)


def vqa_options(folder: Path) -> Path:
    """The colour of each digit among all colours; then one question without and one with an empty right answer."""
    return _write(folder, "vqa_options", VQA_OPTIONS, _vqa_options)


def _write(folder: Path, name: str, features: F.FeaturesDict, row: Callable[[int, Scene], dict]) -> Path:
    splits = {}
    for seed, (split, count) in enumerate((("train", 16), ("validation", 8))):
        numbered = enumerate(scenes.draw(count, seed), 1000 * seed)
        splits[split] = [
            {"image": scenes.encoded(scene.image, "JPEG"), "image/id": number, **row(number, scene)}
            for number, scene in numbered
        ]
    return scenes.write(folder, name, features, splits)


def _depth(number: int, scene: Scene) -> dict:
    found = np.full(scene.image.shape[:2], WALL_MM, np.uint16)
    for n, p in enumerate(scene.objects):
        found[scenes.mask_of(p, scene.image)] = 2000 * (n + 1)
    found[:, : None if number % 4 == 3 else UNMEASURED_COLUMNS] = 0
    return {"depth": b"" if number % 4 == 2 else scenes.encoded(found)}


def _normals(number: int, scene: Scene) -> dict:
    found = np.zeros((*scene.image.shape[:2], 3))
    found[..., 2] = 1
    for p in scene.objects:
        y, x = np.mgrid[: p.size, : p.size] * 2 / p.size - 1
        inside = x**2 + y**2 < 1
        ball = np.stack([x, y, np.sqrt(np.maximum(1 - x**2 - y**2, 0))], axis=-1)
        found[p.top : p.top + p.size, p.left : p.left + p.size][inside] = ball[inside]
    colours = ((found + 1) / 2 * 255).astype(np.uint8)
    colours[:, : None if number % 4 == 3 else UNMEASURED_COLUMNS] = 128
    return {"normals": b"" if number % 4 == 2 else scenes.encoded(colours)}


def _regions(number: int, scene: Scene) -> dict:
    side = scene.image.shape[0]
    found = [
        {"bbox": scenes.box_of(p, side), "id": 10 * number + n, "phrase": f"a {p.colour} digit"}
        for n, p in enumerate(scene.objects)
    ]
    blank = {"bbox": F.BBox(0.0, 0.0, 1.0, 1.0), "id": 10 * number + 9, "phrase": " "}
    return {"regions": [] if number % 4 == 3 else [blank, *found]}


def _image_text(number: int, scene: Scene) -> dict:
    if number % 4 == 3:
        return {"texts": ["", " "], "labels": [" "]}
    words = " and ".join(f"a {p.colour} {p.digit}" for p in scene.objects)
    return {"texts": ["", words, f"digits: {words}"], "labels": ["", *(f"{p.colour.upper()}" for p in scene.objects)]}


def _vqa_options(number: int, scene: Scene) -> dict:
    colours = list(COLOURS)
    found = [
        {"id": 10 * number + n, "question": f"Which colour has the {p.digit}?", "options": colours,
         "answer": colours.index(p.colour)}
        for n, p in enumerate(scene.objects)
    ]  # fmt: skip
    wrong = [
        {"id": 10 * number + 7, "question": "Which?", "options": ["a", "b"], "answer": 2},
        {"id": 10 * number + 8, "question": "Which?", "options": ["a", " "], "answer": 1},
        {"id": 10 * number + 9, "question": "Which?", "options": [], "answer": 0},
    ]
    return {"questions": wrong if number % 4 == 3 else [*found, *wrong]}
