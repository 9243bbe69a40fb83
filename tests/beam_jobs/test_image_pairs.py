"""`build-image-pairs`: depth in millimetres and normals as colours, joined to their images by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_jobs.specs import BUILD_IMAGE_PAIRS, ImagePairsSpec
from tests.beam_jobs.conftest import Built, at, picture, run_stage
from uio2.pipeline.stage import StageError

DEPTH = np.array([[0, 500, 1000], [1500, 2000, 65535]], np.uint16)
ALL = ImagePairsSpec(validation_fraction=0.0, max_dropped_fraction=0.95)


def _depth(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def _maps(built: Built, split: str = "train") -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(e["depth"]))) for e in built.examples(split)]


def test_a_16_bit_png_keeps_its_bytes(tmp_path: Path):
    picture(tmp_path / "raw" / "images" / "val" / "a.jpg", size=(3, 2))
    path = _depth(tmp_path / "raw" / "depth" / "val" / "a_depth.png", DEPTH)
    built = run_stage(BUILD_IMAGE_PAIRS, ALL, tmp_path, raw=at(tmp_path / "raw"))
    (example,) = built.examples("validation")
    assert (built.stats["dataset"], example["depth"]) == ("image_depth", path.read_bytes())
    assert example["image"].shape == (2, 3, 3)
    again = run_stage(BUILD_IMAGE_PAIRS, ALL, tmp_path / "again", raw=at(tmp_path / "raw"))
    assert again.shards() == built.shards()


def test_other_units_become_millimetres(tmp_path: Path):
    raw = tmp_path / "raw"
    for name in ("metres", "tiff"):
        picture(raw / "images" / f"{name}.jpg", size=(3, 2))
    metres = np.array([[0, 0.5, np.nan], [1.5, -1, 100]], np.float32)
    (raw / "depth").mkdir()
    np.save(raw / "depth" / "metres.npy", metres[..., None])
    _depth(raw / "depth" / "tiff.tif", metres)
    built = run_stage(BUILD_IMAGE_PAIRS, ALL, tmp_path, raw=at(raw))
    for found in _maps(built):
        np.testing.assert_array_equal(found, [[0, 500, 0], [1500, 0, 0]])
    kitti = tmp_path / "kitti"
    picture(kitti / "images" / "a.png", size=(3, 2))
    _depth(kitti / "depth" / "a.png", DEPTH)
    spec = ImagePairsSpec(millimetres=1000 / 256, validation_fraction=0.0)
    (found,) = _maps(run_stage(BUILD_IMAGE_PAIRS, spec, tmp_path / "k", raw=at(kitti)))
    np.testing.assert_array_equal(found, [[0, 1953, 3906], [5859, 7812, 0]])


def test_normals_are_colours_of_the_images_size(tmp_path: Path):
    raw = tmp_path / "raw"
    for name in ("a", "b", "c"):
        picture(raw / "images" / f"{name}.jpg", size=(3, 2))
    path = picture(raw / "normals" / "a_normal.png", size=(3, 2), colour=(128, 128, 255))
    picture(raw / "normals" / "b.png", size=(4, 2))
    Image.new("L", (3, 2)).save(raw / "normals" / "c.png")
    spec = ImagePairsSpec(target="normals", validation_fraction=0.0, max_dropped_fraction=0.95)
    built = run_stage(BUILD_IMAGE_PAIRS, spec, tmp_path, raw=at(raw))
    (example,) = built.examples("train")
    assert example["normals"] == path.read_bytes()
    assert built.reasons() == {"b": "map_size", "c": "map_mode"}


def test_pairs_that_do_not_fit_become_dead_letters(tmp_path: Path):
    raw = tmp_path / "raw"
    names = ("good", "alone", "flat", "eight", "size", "cut", "endless", "pickle")
    for name in names:
        picture(raw / "images" / f"{name}.jpg", size=(3, 2))
    for name in ("good", "orphan", "cut"):
        _depth(raw / "depth" / f"{name}.png", DEPTH)
    _depth(raw / "depth" / "flat.png", 0 * DEPTH)
    _depth(raw / "depth" / "eight.png", DEPTH.astype(np.uint8))
    _depth(raw / "depth" / "size.png", DEPTH.T.copy())
    (raw / "depth" / "cut.png").write_bytes((raw / "depth" / "good.png").read_bytes()[:45])
    (raw / "depth" / "endless.png").write_bytes((raw / "depth" / "good.png").read_bytes()[:-4])
    np.save(raw / "depth" / "pickle.npy", np.array([[{}]], object), allow_pickle=True)
    built = run_stage(BUILD_IMAGE_PAIRS, ALL, tmp_path, raw=at(raw))
    assert built.reasons() == {
        "alone": "map_missing",
        "orphan": "image_missing",
        "flat": "no_depth",
        "eight": "map_mode",
        "size": "map_size",
        "cut": "map_undecodable",
        "endless": "map_undecodable",
        "pickle": "map_undecodable",
    }
    built.check_counts()
    assert built.stats["splits"] == {"train": 1}


def test_an_unknown_target_is_an_error(tmp_path: Path):
    with pytest.raises(StageError, match="target = 'colour': expected depth or normals"):
        run_stage(BUILD_IMAGE_PAIRS, ImagePairsSpec(target="colour"), tmp_path, raw=at(tmp_path))
