"""`build-visual-genome`: regions joined to the sizes and files of their images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_jobs.specs import BUILD_VISUAL_GENOME, VisualGenomeSpec
from tests.beam_jobs.conftest import at, picture, run_stage
from uio2.pipeline.stage import StageError


def _raw(folder: Path, *, images: list[dict[str, Any]], regions: list[Any]) -> Path:
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "image_data.json").write_text(json.dumps(images))
    (folder / "annotations" / "region_descriptions.json").write_text(json.dumps(regions))
    return folder


def _region(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "region_id": number,
        "image_id": 1,
        "x": 4,
        "y": 2,
        "width": 8,
        "height": 4,
        "phrase": " a  cat ",
        **changes,
    }


IMAGES = [
    {"image_id": 1, "width": 40, "height": 20, "url": "", "coco_id": None},
    {"image_id": 2, "width": 8, "height": 8},
]


def test_boxes_are_normalised_and_regions_ordered(tmp_path: Path):
    picture(tmp_path / "raw" / "images" / "VG_100K" / "1.jpg", size=(40, 20))
    picture(tmp_path / "raw" / "images" / "VG_100K_2" / "2.png", size=(8, 8))
    regions = [
        {"id": 1, "regions": [_region(7), _region(5, x=36, phrase="over the edge")]},
        {"id": 2, "regions": [_region(9, image_id=2, x=0, y=0, width=8, height=8, phrase="all of it")]},
    ]
    raw = _raw(tmp_path / "raw", images=IMAGES, regions=regions)
    spec = VisualGenomeSpec(validation_fraction=0.0, num_shards=2)
    built = run_stage(BUILD_VISUAL_GENOME, spec, tmp_path, raw=at(raw))
    examples = {int(e["image/id"]): e for e in built.examples("train")}
    one = examples[1]["regions"]
    assert one["id"].tolist() == [5, 7]
    assert one["phrase"].tolist() == [b"over the edge", b"a cat"]
    np.testing.assert_allclose(one["bbox"], [[0.1, 0.9, 0.3, 1.0], [0.1, 0.1, 0.3, 0.3]], atol=1e-6)
    np.testing.assert_allclose(examples[2]["regions"]["bbox"], [[0, 0, 1, 1]])
    assert run_stage(BUILD_VISUAL_GENOME, spec, tmp_path / "b", raw=at(raw)).shards() == built.shards()


def test_bad_regions_become_dead_letters(tmp_path: Path):
    picture(tmp_path / "raw" / "images" / "1.jpg", size=(40, 20))
    regions = [
        _region(1), _region(1, phrase="again"), _region(2, phrase=" "), _region(3, x=float("nan")), _region(4, x="4"),
        _region(5, x=90), _region(6, width=-2), "region", {"region_id": 8, "phrase": "no box"},
    ]  # fmt: skip
    raw = _raw(
        tmp_path / "raw",
        images=IMAGES,
        regions=[
            {"id": 1, "regions": regions},
            {"id": 2, "regions": [_region(9, x=0, y=0)]},
            {"id": 3, "regions": [_region(10)]},
            {"regions": []},
        ],
    )
    spec = VisualGenomeSpec(max_dropped_fraction=0.95, validation_fraction=0.0)
    built = run_stage(BUILD_VISUAL_GENOME, spec, tmp_path, raw=at(raw))
    assert built.stats["records"]["region"]["dropped"] == {
        "bad_box": 2,
        "duplicate_id": 1,
        "empty_box": 2,
        "empty_text": 1,
        "image:image_missing": 1,
        "image_not_listed": 1,
        "missing_field": 1,
        "not_an_object": 1,
    }
    built.check_counts()
    assert [e["regions"]["phrase"].tolist() for e in built.examples("train")] == [[b"a cat"]]


def test_a_missing_file_is_named(tmp_path: Path):
    raw = _raw(tmp_path / "raw", images=IMAGES, regions=[])
    picture(raw / "images" / "1.jpg")
    (raw / "annotations" / "image_data.json").unlink()
    with pytest.raises(StageError, match=r"no image_data\.json"):
        run_stage(BUILD_VISUAL_GENOME, VisualGenomeSpec(), tmp_path, raw=at(raw))
