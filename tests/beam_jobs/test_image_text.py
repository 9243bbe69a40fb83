"""`build-image-text`: images with texts however they lie, bytes as they came."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from beam_jobs.specs import BUILD_IMAGE_TEXT, ImageTextSpec
from tests.beam_jobs.conftest import SHARED, Built, at, lines, needs_shared, picture, pointing, run_stage
from uio2.pipeline.stage import StageError

ALL = ImageTextSpec(validation_fraction=0.0, max_dropped_fraction=0.95)


def _texts(built: Built, split: str = "train") -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    return {
        (tuple(t.decode() for t in e["texts"]), tuple(t.decode() for t in e["labels"])) for e in built.examples(split)
    }


def _stored(built: Built) -> set[bytes]:
    from beam_jobs.tf_example import Example
    from beam_jobs.tfrecord import read_records

    found = set()
    for path in (built.out / built.stats["tfds_dir"]).glob("*.tfrecord-*"):
        with path.open("rb") as file:
            found |= {Example.from_bytes(data).strings["image"][0] for data in read_records(file, name=path.name)}
    return found


def test_sidecars_tables_and_several_rows_of_one_image(tmp_path: Path):
    images = tmp_path / "raw" / "images"
    files = [picture(images / name) for name in ("val/a.jpg", "b.png", "c.jpg")]
    (images / "val" / "a.txt").write_text("beside it\n\nsecond line\n")
    (images / "readme.txt").write_text("of no image")
    (images / "table.csv").write_text('image,caption,tags\nb.png,one,"red, small"\nb.png,two,\nc.jpg,,blue\n')
    built = run_stage(BUILD_IMAGE_TEXT, ALL, tmp_path, raw=at(tmp_path / "raw"))
    assert _texts(built, "validation") == {(("beside it", "second line"), ())}
    assert _texts(built) == {(("one", "two"), ("red", "small")), ((), ("blue",))}
    assert _stored(built) == {path.read_bytes() for path in files}
    ids = [int(e["image/id"]) for split in ("train", "validation") for e in built.examples(split)]
    assert len(set(ids)) == 3
    built.check_counts()
    assert built.stats["records"]["text"]["written"] == 4


def test_webdataset_tars(tmp_path: Path):
    images = tmp_path / "raw" / "images"
    images.mkdir(parents=True)
    data = picture(tmp_path / "x.jpg").read_bytes()
    members = {
        "0001.jpg": data, "0001.txt": b"first", "0002.json": b'{"caption": "second", "label": "dog"}', "0002.png": data,
        "0003.txt": b"no picture", "0004.jpg": data, "0004.json": b"{", "0005.jpg": data,
    }  # fmt: skip
    with tarfile.open(images / "train-000.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    built = run_stage(BUILD_IMAGE_TEXT, ALL, tmp_path, raw=at(tmp_path / "raw"))
    assert _texts(built) == {(("first",), ()), (("second",), ("dog",))}
    assert _stored(built) == {data}
    assert sorted(built.reasons().values()) == ["empty_text", "image_missing", "not_json"]
    built.check_counts()
    (images / "train-000.tar").write_bytes((images / "train-000.tar").read_bytes()[:700])
    with pytest.raises(StageError, match="not a readable tar"):
        run_stage(BUILD_IMAGE_TEXT, ALL, tmp_path / "cut", raw=at(tmp_path / "raw"))


def test_parquet_that_holds_the_bytes(tmp_path: Path):
    images = tmp_path / "raw" / "images"
    images.mkdir(parents=True)
    data = [picture(tmp_path / f"{n}.png", colour=(20 * n, 0, 0)).read_bytes() for n in range(7)]
    rows = [{"image": {"bytes": d, "path": None}, "text": f"text {n}"} for n, d in enumerate(data)]
    rows.append({"image": {"bytes": None, "path": "x"}, "text": "nothing"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), images / "train.parquet", row_group_size=3)
    built = run_stage(BUILD_IMAGE_TEXT, ALL, tmp_path, raw=at(tmp_path / "raw"))
    found = {e["texts"][0].decode(): int(e["image"][0, 0, 0]) for e in built.examples("train")}
    assert found == {f"text {n}": 20 * n for n in range(7)}
    assert built.reasons() == {"train.parquet/7": "image_missing"}
    again = run_stage(BUILD_IMAGE_TEXT, ALL, tmp_path / "again", raw=at(tmp_path / "raw"))
    assert again.shards() == built.shards()


def test_an_image_stored_turned_is_turned_upright(tmp_path: Path):
    images = tmp_path / "raw" / "images"
    images.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))
    image.save(images / "a.jpg", exif=exif)
    (images / "a.txt").write_text("white above black")
    built = run_stage(BUILD_IMAGE_TEXT, ALL, tmp_path, raw=at(tmp_path / "raw"))
    (example,) = built.examples("train")
    assert example["image"].shape == (40, 20, 3)
    assert example["image"][:18].mean() > 250
    assert example["image"][22:].mean() < 5
    assert Image.open(io.BytesIO(next(iter(_stored(built))))).getexif().get(0x0112, 1) == 1


def test_nothing_to_read_is_an_error(tmp_path: Path):
    picture(tmp_path / "raw" / "images" / "a.jpg")
    with pytest.raises(StageError, match="no text beside an image"):
        run_stage(BUILD_IMAGE_TEXT, ALL, tmp_path, raw=at(tmp_path / "raw"))


@needs_shared
def test_every_nasty_image_is_stored_decodable_or_has_a_reason(tmp_path: Path):
    folder = SHARED / "nasty" / "images"
    told = [json.loads(line) for line in (SHARED / "nasty" / "manifest.jsonl").read_text().splitlines()]
    names = [row["file"].removeprefix("images/") for row in told if row["file"].startswith("images/")]
    table = lines(tmp_path / "train.jsonl", [{"file": name, "text": name} for name in names])
    raw = pointing(tmp_path / "raw", images=folder, annotations=table)
    built = run_stage(BUILD_IMAGE_TEXT, ALL, tmp_path, raw=raw)
    kept = {e["texts"][0].decode(): e["image"] for e in built.examples("train")}
    assert kept.keys() | built.reasons().keys() == set(names)
    bad = {row["file"].removeprefix("images/") for row in told if not row.get("pillow", {"ok": True})["ok"]}
    assert bad & kept.keys() == set()
    for name, image in kept.items():
        assert image.ndim == 3, name
        assert np.prod(image.shape) >= 3, name
    built.check_counts()
