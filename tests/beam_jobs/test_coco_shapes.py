"""`build-coco`: keypoints joined by annotation id, masks drawn from polygons and run lengths."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beam_jobs import coco_shapes
from beam_jobs.dead_letters import BadRecord
from beam_jobs.specs import BUILD_COCO, CocoSpec
from tests.beam_jobs.conftest import SHARED, Built, at, needs_shared, picture, pointing, run_stage

POSE = [4, 5, 2, 6, 7, 1, *[0] * 45]


def _object(number: int, **changes: Any) -> dict[str, Any]:
    corners = [2, 2, 10, 2, 10, 6, 2, 6]
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": [2, 2, 8, 4], "area": 32, "iscrowd": 0,
            "segmentation": [corners], **changes}  # fmt: skip


def _raw(folder: Path, *, objects: list[Any], poses: list[Any] | None = None) -> Path:
    picture(folder / "images" / "a.jpg", size=(24, 16))
    (folder / "annotations").mkdir(parents=True)
    image = {"id": 1, "file_name": "a.jpg", "width": 24, "height": 16}
    for name, rows in (("instances", objects), ("person_keypoints", poses)):
        if rows is not None:
            value = {"images": [image], "annotations": rows, "categories": [{"id": 1, "name": "person"}]}
            (folder / "annotations" / f"{name}_val2017.json").write_text(json.dumps(value))
    return folder


def _objects(built: Built) -> dict[str, np.ndarray]:
    (example,) = built.examples("validation")
    return example["objects"]


def _mask(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "L")
    return np.asarray(image)


def test_keypoints_join_the_object_of_their_annotation(tmp_path: Path):
    poses = [_object(8, keypoints=POSE, num_keypoints=2), _object(7, keypoints=[0] * 51, num_keypoints=0)]
    raw = _raw(tmp_path / "raw", objects=[_object(7), _object(8)], poses=poses)
    built = run_stage(BUILD_COCO, CocoSpec(num_shards=1), tmp_path, raw=at(raw))
    objects = _objects(built)
    assert objects["id"].tolist() == [7, 8]
    assert objects["num_keypoints"].tolist() == [0, 2]
    np.testing.assert_array_equal(objects["keypoints"][1], np.reshape(POSE, (17, 3)))
    assert not objects["keypoints"][0].any()
    assert objects["mask"].tolist() == [b"", b""]
    assert built.stats["records"]["pose"] == {"in": 1, "written": 1, "dropped": {}, "over_limit": 0}


def test_bad_keypoints_become_dead_letters(tmp_path: Path):
    poses = [
        _object(1, keypoints=POSE[:-1]),
        _object(2, keypoints=[*POSE[:2], 3, *POSE[3:]]),
        _object(3, keypoints=[float("nan"), *POSE[1:]]),
        _object(4, keypoints="none"),
        _object(99, keypoints=POSE),
        _object(5, keypoints=POSE),
        _object(5, keypoints=POSE),
    ]
    raw = _raw(tmp_path / "raw", objects=[_object(n) for n in range(1, 6)], poses=poses)
    spec = CocoSpec(num_shards=1, max_dropped_fraction=0.95)
    built = run_stage(BUILD_COCO, spec, tmp_path, raw=at(raw))
    assert built.stats["records"]["pose"] == {
        "in": 7,
        "written": 1,
        "dropped": {"bad_keypoints": 3, "no_object": 2, "wrong_type": 1},
        "over_limit": 0,
    }
    assert built.stats["records"]["object"]["written"] == 5


def test_masks_are_drawn_where_asked_for(tmp_path: Path):
    crowd = np.zeros((16, 24), bool)
    crowd[3:9, 5:20] = True
    flat = crowd.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    objects = [
        _object(1),
        _object(2, iscrowd=1, segmentation={"size": [16, 24], "counts": runs}),
        _object(3, segmentation=[]),
        _object(4, segmentation=[[0, 0, 4, 0, 4, 4], [20, 10, 24, 10, 24, 16, 20, 16]]),
    ]
    raw = _raw(tmp_path / "raw", objects=objects)
    built = run_stage(BUILD_COCO, CocoSpec(num_shards=1, masks=True), tmp_path, raw=at(raw))
    masks = _objects(built)["mask"]
    box = np.zeros((16, 24), np.uint8)
    box[2:6, 2:10] = 255
    np.testing.assert_array_equal(_mask(masks[0]), box)
    np.testing.assert_array_equal(_mask(masks[1]), crowd * np.uint8(255))
    assert masks[2] == b""
    both = _mask(masks[3])
    assert both[0, 2] == both[12, 22] == 255
    assert both[8, 12] == 0


def test_packed_run_lengths_are_those_of_pycocotools():
    from pycocotools import mask

    rng = np.random.default_rng(0)
    for density in (0.02, 0.3, 0.7):
        wanted = (rng.random((37, 53)) < density).astype(np.uint8)
        packed = mask.encode(np.asfortranarray(wanted))["counts"].decode()
        found = coco_shapes.outline({"size": [37, 53], "counts": packed})
        png = coco_shapes.mask_png(coco_shapes.fitting(found, width=53, height=37), width=53, height=37)
        np.testing.assert_array_equal(_mask(png), 255 * wanted)


@pytest.mark.parametrize(
    "segmentation",
    [
        "text",
        [[1, 2, 3, 4]],
        [[0, 0, 1, 1, 2, 2, 3]],
        [[0, 0, 1, 1, 2, float("inf")]],
        [[0, 0, 1e9, 0, 1e9, 5]],
        {"size": [16, 24], "counts": [1, 2]},
        {"size": [24, 16], "counts": [384]},
        {"size": [16, 24], "counts": [-1, 385]},
        {"size": [16, 24], "counts": "o"},
        {"size": [16, 24], "counts": "\u00ff"},
        {"counts": [384]},
    ],
)
def test_outlines_that_cannot_be_drawn(segmentation: Any):
    with pytest.raises(BadRecord) as caught:
        coco_shapes.fitting(coco_shapes.outline(segmentation), width=24, height=16)
    assert caught.value.reason == "bad_segmentation"


@needs_shared
def test_real_people_and_crowds(tmp_path: Path):
    folder = SHARED / "keypoints_mini"
    raw = pointing(tmp_path / "raw", images=folder, annotations=folder / "annotations")
    built = run_stage(BUILD_COCO, CocoSpec(num_shards=1, masks=True), tmp_path / "a", raw=raw)
    told = json.loads((folder / "annotations" / "person_keypoints_val2017.json").read_text())["annotations"]
    by_id = {a["id"]: a for a in told}
    for example in built.examples("validation"):
        objects = example["objects"]
        for number, keypoints, count, data in zip(
            *(objects[k] for k in ("id", "keypoints", "num_keypoints", "mask")), strict=True
        ):
            annotation = by_id.pop(int(number))
            assert count == annotation["num_keypoints"]
            np.testing.assert_array_equal(keypoints.reshape(-1), annotation["keypoints"])
            assert abs((_mask(data) > 0).sum() / annotation["area"] - 1) < 0.06
    assert not by_id
    (tmp_path / "crowd").mkdir()
    source = SHARED / "nasty" / "annotations" / "crowd_rle_genuine.json"
    shutil.copy(source, tmp_path / "crowd" / "instances_val2017.json")
    raw = pointing(tmp_path / "raw2", images=SHARED / "coco_mini", annotations=tmp_path / "crowd")
    built = run_stage(BUILD_COCO, CocoSpec(num_shards=1, masks=True), tmp_path / "b", raw=raw)
    crowds = [a for a in json.loads(source.read_text())["annotations"] if a["iscrowd"]]
    inside = {a["id"]: sum(a["segmentation"]["counts"][1::2]) for a in crowds}
    objects = [e["objects"] for e in built.examples("validation")]
    found = {
        int(o["id"][i]): int((_mask(o["mask"][i]) > 0).sum()) for o in objects for i in np.flatnonzero(o["is_crowd"])
    }
    assert found == inside
