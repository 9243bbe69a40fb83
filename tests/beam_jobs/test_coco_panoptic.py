"""`build-coco-panoptic`: a real image's segments with their map, and maps that do not belong to their list."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from beam_jobs.specs import BUILD_COCO_PANOPTIC, CocoPanopticSpec
from tests.beam_jobs.conftest import SHARED, needs_shared, picture, pointing, run_stage

SPEC = CocoPanopticSpec(num_shards=1, max_dropped_fraction=0.9)


@needs_shared
def test_segments_and_their_map(tmp_path: Path):
    source = SHARED / "panoptic_mini"
    shutil.copytree(source / "annotations", tmp_path / "annotations")
    (tmp_path / "annotations").chmod(0o755)
    table = tmp_path / "annotations" / "panoptic_val2017.json"
    told = json.loads(table.read_text())
    # Two more images: one whose map names other segments, one without a map.
    picture(tmp_path / "images" / "val2017" / "7.jpg", size=(8, 8))
    shutil.copyfile(source / "val2017" / "000000142238.jpg", tmp_path / "images" / "val2017" / "000000142238.jpg")
    maps = tmp_path / "annotations" / "panoptic_val2017"
    maps.chmod(0o755)
    Image.new("RGB", (8, 8), (9, 0, 0)).save(maps / "7.png")
    told["images"] += [{"id": n, "file_name": f"{n}.jpg", "width": 8, "height": 8} for n in (7, 8)]
    segment = {"id": 10, "category_id": 1, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 0}
    told["annotations"].append({"image_id": 7, "file_name": "7.png", "segments_info": [segment]})
    table.chmod(0o644)
    table.write_text(json.dumps(told))
    raw = pointing(tmp_path / "raw", images=tmp_path / "images", annotations=tmp_path / "annotations")
    built = run_stage(BUILD_COCO_PANOPTIC, SPEC, tmp_path, raw=raw)
    assert built.reasons() == {"7": "segments_disagree", "8": "map_not_listed"}
    built.check_counts()
    (example,) = built.examples("validation")
    assert example["panoptic"] == (source / "annotations" / "panoptic_val2017" / "000000142238.png").read_bytes()
    ids = np.asarray(Image.open(io.BytesIO(example["panoptic"]))).astype(int) @ [1, 256, 65536]
    assert example["image"].shape[:2] == ids.shape
    infos = {info["id"]: info for info in told["annotations"][0]["segments_info"]}
    found = example["segments"]
    assert found["id"].tolist() == sorted(infos)
    assert [int((ids == number).sum()) for number in found["id"]] == found["area"].tolist()
    things = {category["id"]: bool(category["isthing"]) for category in told["categories"]}
    assert found["is_thing"].tolist() == [things[infos[number]["category_id"]] for number in found["id"]]
    assert run_stage(BUILD_COCO_PANOPTIC, SPEC, tmp_path / "again", raw=raw).shards() == built.shards()
