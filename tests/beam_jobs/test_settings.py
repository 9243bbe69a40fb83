"""What all datasets may be told: duplicates as an error, smaller images, the bytes of what was dropped."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beam_jobs import coco
from beam_jobs.dead_letters import BadRecord
from beam_jobs.images import stored_image
from beam_jobs.preview import preview
from beam_jobs.specs import (
    BUILD_COCO,
    BUILD_IMAGE_PAIRS,
    BUILD_REFCOCO,
    BUILD_SPEECH,
    CocoSpec,
    ImagePairsSpec,
    RefCocoSpec,
    SpeechSpec,
)
from tests.beam_jobs.conftest import FIXTURE, at, edit, lines, picture, run_stage
from tests.beam_jobs.test_audio_tags import clip
from uio2.pipeline.stage import StageError


def _left_half(path: Path, size: tuple[int, int], **save: Any) -> bytes:
    """A black image whose left half is white."""
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (0, 0, size[0] // 2, size[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **save)
    return path.read_bytes()


def test_larger_images_are_scaled_and_what_is_said_in_pixels_follows(tmp_path: Path):
    import tensorflow as tf

    images = tmp_path / "raw" / "images"
    _left_half(images / "1.jpg", (80, 40))
    small = _left_half(images / "2.jpg", (20, 10))
    (tmp_path / "raw" / "annotations").mkdir()
    listed = [{"id": n, "file_name": f"{n}.jpg", "width": w, "height": w // 2} for n, w in ((1, 80), (2, 20))]
    body = {"image_id": 1, "id": 5, "category_id": 1, "bbox": [8, 4, 40, 20], "area": 640, "iscrowd": 0}
    body |= {"segmentation": [[8, 4, 48, 4, 48, 24, 8, 24]], "keypoints": [40, 20, 2, *[0] * 48], "num_keypoints": 1}
    value = {"images": listed, "annotations": [body], "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "raw" / "annotations" / "person_keypoints_train2017.json").write_text(json.dumps(value))
    spec = CocoSpec(num_shards=1, masks=True, max_side=20)
    built = run_stage(BUILD_COCO, spec, tmp_path, raw=at(tmp_path / "raw"))
    assert built.stats["tfds_dir"] == "coco_all/1.0.20"
    info = json.loads((built.out / "coco_all" / "1.0.20" / "dataset_info.json").read_text())
    assert "20 pixels" in info["description"]
    one, two = sorted(built.examples("train"), key=lambda e: e["image/id"])
    assert one["image"].shape == (10, 20, 3)
    assert one["image"][:, :8].mean() > 240
    assert one["image"][:, 12:].mean() < 15
    objects = one["objects"]
    np.testing.assert_allclose(objects["bbox"][0], [0.1, 0.1, 0.6, 0.6])
    np.testing.assert_allclose(objects["keypoints"][0][0], [10, 5, 2])
    assert objects["area"].tolist() == [40]
    mask = np.asarray(Image.open(io.BytesIO(objects["mask"][0])))
    assert mask.shape == (10, 20)
    assert (mask > 0).sum() == 10 * 5
    np.testing.assert_array_equal(two["image"], tf.io.decode_jpeg(small).numpy())


def test_maps_and_areas_follow_too(tmp_path: Path):
    raw = tmp_path / "pairs"
    picture(raw / "images" / "a.jpg", size=(40, 20))
    depth = np.repeat(np.array([[500] * 20 + [2000] * 20], np.uint16), 20, axis=0)
    (raw / "depth").mkdir()
    Image.fromarray(depth).save(raw / "depth" / "a.png")
    spec = ImagePairsSpec(validation_fraction=0.0, max_side=10)
    (example,) = run_stage(BUILD_IMAGE_PAIRS, spec, tmp_path / "a", raw=at(raw)).examples("train")
    assert example["image"].shape == (5, 10, 3)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(example["depth"]))), depth[::4, ::4])
    large, small = (
        run_stage(BUILD_REFCOCO, RefCocoSpec(num_shards=1, max_side=side), tmp_path / str(side), raw=at(FIXTURE))
        for side in (None, 48)
    )
    for before, after in zip(large.examples("validation"), small.examples("validation"), strict=True):
        (down, across, _), factor = after["image"].shape, after["image"].size / before["image"].size
        assert max(down, across) == 48
        np.testing.assert_allclose(after["objects"]["area"], before["objects"]["area"] * factor, atol=0.5)
        np.testing.assert_array_equal(after["objects"]["bbox"], before["objects"]["bbox"])


def test_an_image_stored_turned_is_taken_as_it_was_annotated(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _left_half(tmp_path / "a.jpg", (40, 20), exif=exif)
    as_stored = stored_image(data, max_pixels=10**6, size=(40, 20))
    assert (as_stored.data, as_stored.width) == (data, 40)
    for stored in (stored_image(data, max_pixels=10**6, size=(20, 40)), stored_image(data, max_pixels=10**6)):
        pixels = np.asarray(Image.open(io.BytesIO(stored.data)))
        assert pixels.shape == (40, 20, 3)
        assert pixels[:18].mean() > 240
        assert pixels[22:].mean() < 15
    with pytest.raises(BadRecord, match="annotated as 30 x 20"):
        stored_image(data, max_pixels=10**6, size=(30, 20))


def test_duplicates_may_be_an_error_and_name_both_places(tmp_path: Path, raw: Path):
    edit(raw / "annotations" / "captions_train2017.json", lambda v: v["annotations"].append(v["annotations"][3]))
    with pytest.raises(StageError, match=r"caption .*duplicate_id: caption id .* occurs twice.*duplicates = 'drop'"):
        run_stage(BUILD_COCO, CocoSpec(num_shards=1, duplicates="error"), tmp_path, raw=at(raw))
    audio = tmp_path / "sound" / "audio"
    clip(audio / "a.wav")
    rows = [{"file": "a.wav", "text": "one"}, {"file": "a.wav", "text": "two"}]
    lines(audio / "train.jsonl", rows)
    with pytest.raises(StageError, match=r"train.jsonl:\[1\].*the key is also that of train.jsonl:\[0\]"):
        run_stage(BUILD_SPEECH, SpeechSpec(duplicates="error"), tmp_path / "e", raw=at(tmp_path / "sound"))
    spec = SpeechSpec(duplicates="drop", max_dropped_fraction=0.5)
    built = run_stage(BUILD_SPEECH, spec, tmp_path / "d", raw=at(tmp_path / "sound"))
    assert built.stats["records"]["recording"] == {
        "in": 2, "written": 1, "dropped": {"duplicate_key": 1}, "over_limit": 0
    }  # fmt: skip


def test_the_bytes_of_dropped_files_are_kept_on_request(tmp_path: Path, raw: Path):
    bad = b"<html>404</html>"
    (raw / "images" / "train2017" / "000000000002.jpg").write_bytes(bad)
    (raw / "images" / "train2017" / "000000000003.jpg").unlink()
    spec = CocoSpec(num_shards=1, max_dropped_fraction=0.2, dead_letter_bytes=True)
    built = run_stage(BUILD_COCO, spec, tmp_path, raw=at(raw))
    letters = {letter["key"]: letter.get("kept") for letter in built.letters()}
    assert letters == {"2": {"file": f"bytes/{hashlib.sha256(bad).hexdigest()}", "size": len(bad)}, "3": None}
    kept = built.out / "dead_letters" / "bytes"
    assert [path.read_bytes() for path in kept.iterdir()] == [bad]
    # A second attempt finds its shard finished and still has the bytes.
    assert run_stage(BUILD_COCO, spec, tmp_path, raw=at(raw)).shards() == built.shards()


def test_a_dry_run_sees_what_a_build_would_and_samples_the_bytes(tmp_path: Path, raw: Path):
    (raw / "images" / "val2017" / "000001000003.jpg").write_bytes(b"<html>404</html>")
    edit(raw / "annotations" / "captions_val2017.json", lambda v: v["annotations"][0].update(caption=" "))
    roots = {role: raw / role for role in ("images", "annotations", "vqa")}
    seen = preview(coco.job_of(CocoSpec(), roots), CocoSpec(num_shards=4))
    assert (seen.splits, seen.shards, seen.sampled) == ({"train": 16, "validation": 8}, 4, 24)
    assert seen.dropped["caption"] == {"empty_caption": 1}
    assert seen.sample_dropped == {"not_an_image": 1}
    assert seen.problem == ""
    strict = CocoSpec(num_shards=4, max_dropped_fraction=0.001)
    assert "caption records were dropped" in preview(coco.job_of(strict, roots), strict).problem
    loose = CocoSpec(num_shards=4, max_dropped_fraction=0.5)
    built = run_stage(BUILD_COCO, loose, tmp_path, raw=at(raw))
    assert abs(built.stats["bytes"] - seen.estimated_bytes) <= 2
    assert {kind: row["in"] for kind, row in built.stats["records"].items() if row["in"]} == seen.records_in


def test_settings_that_cannot_be_meant(tmp_path: Path):
    for spec, message in (
        (CocoSpec(duplicates="merge"), "duplicates = 'merge': expected 'drop' or 'error'"),
        (CocoSpec(max_side=0), "max_side = 0: expected at least 1 pixel"),
    ):
        with pytest.raises(StageError, match=message):
            run_stage(BUILD_COCO, spec, tmp_path, raw=at(FIXTURE))
