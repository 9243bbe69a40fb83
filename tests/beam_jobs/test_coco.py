"""`build-coco`: what TFDS and seqio read, exact accounting, equal bytes, and what happens to bad records."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from beam_jobs.specs import BUILD_COCO, CocoSpec
from tests.beam_jobs.conftest import FIXTURE, Built, at, edit, read_letters, run_stage
from uio2.pipeline.stage import StageError

SMALL = CocoSpec(num_shards=3)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return run_stage(BUILD_COCO, SMALL, tmp_path_factory.mktemp("coco"), raw=at(FIXTURE))


def _source(name: str, section: str) -> list[dict]:
    return json.loads((FIXTURE / name).read_text())[section]


def test_examples_hold_what_the_annotation_files_say(built: Built):
    examples = {int(e["image/id"]): e for e in built.examples("train")}
    images = {i["id"]: i for i in _source("annotations/instances_train2017.json", "images")}
    assert set(examples) == set(images)
    one = examples[1]
    assert one["image"].shape == (96, 96, 3)
    assert one["image/filename"] == b"000000000001.jpg"
    captions = [
        a["caption"] for a in _source("annotations/captions_train2017.json", "annotations") if a["image_id"] == 1
    ]
    assert [t.decode() for t in one["captions"]["text"]] == captions
    assert one["captions"]["num"] == len(captions)
    questions = _source("vqa/v2_OpenEnded_mscoco_train2014_questions.json", "questions")
    assert [t.decode() for t in one["vqa"]["questions"]] == [q["question"] for q in questions if q["image_id"] == 1]
    assert one["vqa"]["answers"].shape == (one["vqa"]["num"], 10)


def test_boxes_are_normalised_and_labels_name_the_category(built: Built):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(built.out / built.stats["tfds_dir"]))
    names = builder.info.features["objects"]["label"].names
    examples = {int(e["image/id"]): e for e in built.examples("train")}
    images = {i["id"]: i for i in _source("annotations/instances_train2017.json", "images")}
    categories = {c["id"]: c["name"] for c in _source("annotations/instances_train2017.json", "categories")}
    for annotation in _source("annotations/instances_train2017.json", "annotations"):
        image = images[annotation["image_id"]]
        objects = examples[image["id"]]["objects"]
        (row,) = np.flatnonzero(objects["id"] == annotation["id"])
        x, y, w, h = annotation["bbox"]
        expected = [y / image["height"], x / image["width"], (y + h) / image["height"], (x + w) / image["width"]]
        np.testing.assert_allclose(objects["bbox"][row], expected, rtol=1e-6)
        assert names[objects["label"][row]] == categories[annotation["category_id"]]
        assert objects["is_crowd"][row] == bool(annotation["iscrowd"])


def test_an_image_without_captions_or_questions_is_kept_with_empty_lists(built: Built):
    examples = {int(e["image/id"]): e for e in built.examples("train")}
    assert examples[4]["captions"]["num"] == 0
    assert len(examples[4]["captions"]["text"]) == 0
    assert examples[5]["vqa"]["num"] == 0
    assert examples[5]["vqa"]["answers"].shape == (0, 10)
    assert built.stats["dead_letters"] == 0


def test_image_bytes_are_the_original_ones(built: Built):
    from beam_jobs.tf_example import Example
    from beam_jobs.tfrecord import read_records

    found = {}
    for path in sorted((built.out / built.stats["tfds_dir"]).glob("*.tfrecord-*")):
        with path.open("rb") as file:
            for data in read_records(file, name=path.name):
                example = Example.from_bytes(data)
                found[example.strings["image/filename"][0].decode()] = example.strings["image"][0]
    assert found == {p.name: p.read_bytes() for p in (FIXTURE / "images").rglob("*.jpg")}


def test_seqio_reads_it_as_a_tfds_source(built: Built):
    import seqio

    source = seqio.TfdsDataSource(f"{built.stats['dataset']}:1.0.0", tfds_data_dir=str(built.out))
    dataset = source.get_dataset(split="validation", shuffle=False)
    assert len(list(dataset)) == built.stats["splits"]["validation"] == 8


def test_records_in_equal_records_written(built: Built):
    questions = sum(
        len(_source(f"vqa/v2_OpenEnded_mscoco_{s}2014_questions.json", "questions")) for s in ("train", "val")
    )
    objects = sum(len(_source(f"annotations/instances_{s}2017.json", "annotations")) for s in ("train", "val"))
    records = built.stats["records"]
    assert records["image"] == {"in": 24, "written": 24, "dropped": {}, "over_limit": 0}
    assert (records["question"]["in"], records["question"]["written"]) == (questions, questions)
    assert (records["object"]["in"], records["object"]["written"]) == (objects, objects)


def test_examples_are_what_tfds_itself_would_write(built: Built):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from beam_jobs.tf_example import Example

    features = tfds.builder_from_directory(str(built.out / built.stats["tfds_dir"])).info.features
    path = sorted((built.out / built.stats["tfds_dir"]).glob("*train.tfrecord-*"))[0]
    ours = next(iter(tf.data.TFRecordDataset(str(path)))).numpy()
    flat = Example.from_bytes(ours)
    decoded = features.deserialize_example_np(ours)
    objects = decoded["objects"]
    decoded["objects"] = [
        {**{k: v[i] for k, v in objects.items()}, "bbox": tfds.features.BBox(*map(float, objects["bbox"][i]))}
        for i in range(len(objects["id"]))
    ]
    again = Example.from_bytes(features.serialize_example(features.encode_example(decoded)))
    # TFDS re-encodes the pixels; every other feature has one spelling.
    assert {**again.strings, "image": 0} == {**flat.strings, "image": 0}
    assert (again.ints, again.floats) == (flat.ints, flat.floats)


def test_same_bytes_with_more_workers_and_in_any_order(built: Built, raw: Path, tmp_path: Path, monkeypatch):
    def shuffle(value):
        for section in ("images", "annotations", "questions"):
            random.Random(3).shuffle(value.get(section, []))

    for path in (*raw.glob("annotations/*.json"), *raw.glob("vqa/*.json")):
        edit(path, shuffle)
    monkeypatch.setenv("UIO2_BEAM_OPTIONS", "--runner=FnApiRunner --direct_num_workers=2")
    again = run_stage(BUILD_COCO, SMALL, tmp_path / "again", raw=at(raw))
    assert again.shards() == built.shards()
    assert again.stats == built.stats


def test_the_mode_that_loses_records_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("UIO2_BEAM_OPTIONS", "--direct_running_mode=multi_threading")
    with pytest.raises(StageError, match="multi_threading loses records"):
        run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(FIXTURE))


def test_bad_images_become_dead_letters_with_their_annotations_counted(raw: Path, tmp_path: Path):
    images = raw / "images" / "train2017"
    data = (images / "000000000001.jpg").read_bytes()
    (images / "000000000001.jpg").write_bytes(data[: len(data) // 2])
    (images / "000000000002.jpg").write_bytes(b"<html>404</html>")
    (images / "000000000003.jpg").write_bytes(b"")
    (images / "000000000004.jpg").unlink()
    (images / "000000000005.jpg").write_bytes((images / "000000000009.jpg").read_bytes())
    built = run_stage(BUILD_COCO, CocoSpec(num_shards=3, max_dropped_fraction=0.5), tmp_path, raw=at(raw))
    reasons = {letter["key"]: letter["reason"] for letter in built.letters()}
    assert reasons == {
        "1": "undecodable",
        "2": "not_an_image",
        "3": "empty_file",
        "4": "image_missing",
        "5": "size_mismatch",
    }
    assert built.stats["splits"] == {"train": 11, "validation": 8}
    records = built.stats["records"]
    assert records["image"]["in"] == records["image"]["written"] + 5
    assert records["caption"]["dropped"]["image:undecodable"] == 5
    for row in records.values():
        assert row["in"] == row["written"] + sum(row["dropped"].values())


def test_too_many_drops_fail_the_build_and_say_why(raw: Path, tmp_path: Path):
    (raw / "images" / "train2017" / "000000000001.jpg").write_bytes(b"not an image at all")
    with pytest.raises(StageError, match=r"1 of 24 image records were dropped.*not_an_image 1.*max_dropped_fraction"):
        run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(raw))
    assert [letter["key"] for letter in read_letters(tmp_path / "work" / "dead_letters")] == ["1"]


def test_bad_annotations_become_dead_letters(raw: Path, tmp_path: Path):
    def spoil(value):
        rows = value["annotations"]
        rows[0]["bbox"] = [1, 2, float("nan"), 4]
        rows[1]["category_id"] = 777
        rows[2]["bbox"] = [5000, 0, 10, 10]
        del rows[3]["image_id"]
        rows[4] = "not an object"

    edit(raw / "annotations" / "instances_train2017.json", spoil)
    edit(raw / "vqa" / "v2_mscoco_train2014_annotations.json", lambda v: v["annotations"][0]["answers"].pop())
    built = run_stage(BUILD_COCO, CocoSpec(num_shards=1, max_dropped_fraction=0.5), tmp_path, raw=at(raw))
    dropped = built.stats["records"]["object"]["dropped"]
    assert dropped == {"bad_box": 1, "unknown_category": 1, "empty_box": 1, "missing_field": 1, "not_an_object": 1}
    assert built.stats["records"]["question"]["dropped"] == {"no_answers": 1}


@pytest.mark.parametrize("name", ["../../outside.jpg", "/etc/outside.jpg", "..\\outside.jpg", "link.jpg"])
def test_a_file_name_cannot_leave_the_images_folder(raw: Path, tmp_path: Path, name: str):
    outside = tmp_path / "outside.jpg"
    outside.write_bytes((raw / "images" / "train2017" / "000000000001.jpg").read_bytes())
    (raw / "images" / "train2017" / "link.jpg").symlink_to(outside)
    for split in ("instances", "captions"):
        edit(raw / "annotations" / f"{split}_train2017.json", lambda v: v["images"][0].update(file_name=name))
    built = run_stage(BUILD_COCO, CocoSpec(num_shards=1, max_dropped_fraction=0.5), tmp_path, raw=at(raw))
    assert [letter["reason"] for letter in built.letters()] == ["path_escape"]


def test_annotations_of_images_outside_a_subset_are_counted_but_no_fault(raw: Path, tmp_path: Path):
    def keep_half(value):
        value["images"] = value["images"][:8]

    for kind in ("instances", "captions"):
        edit(raw / "annotations" / f"{kind}_train2017.json", keep_half)
    built = run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(raw))
    assert built.stats["splits"]["train"] == 8
    assert built.stats["records"]["caption"]["dropped"] == {"annotation:image_not_listed": 40}


def test_duplicates_and_images_in_both_splits_are_dropped(raw: Path, tmp_path: Path):
    stolen = _source("annotations/instances_val2017.json", "images")[0]

    def repeat(value):
        value["images"] += [value["images"][0], stolen]
        value["annotations"].append(value["annotations"][0])

    edit(raw / "annotations" / "instances_train2017.json", repeat)
    built = run_stage(BUILD_COCO, CocoSpec(num_shards=1, max_dropped_fraction=0.5), tmp_path, raw=at(raw))
    assert built.stats["splits"] == {"train": 16, "validation": 8}
    assert built.stats["records"]["image"]["dropped"] == {"duplicate_image": 1, "image_in_two_splits": 1}
    assert built.stats["records"]["object"]["dropped"] == {"duplicate_id": 1}


def test_limit_keeps_the_same_first_records_of_each_split(built: Built, tmp_path: Path):
    few = run_stage(BUILD_COCO, CocoSpec(num_shards=2, limit=5), tmp_path, raw=at(FIXTURE))
    assert few.stats["splits"] == {"train": 5, "validation": 5}
    assert few.stats["records"]["image"]["over_limit"] == 14
    ids = [int(e["image/id"]) for e in built.examples("train")]
    assert {int(e["image/id"]) for e in few.examples("train")} == set(ids[:5])


def test_a_second_attempt_keeps_finished_shards(built: Built, tmp_path: Path):
    first = run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(FIXTURE))
    shards = sorted((first.work / "shards").glob("*.tfrecord-?????-of-?????"))
    kept = {p: p.stat().st_mtime_ns for p in shards[1:]}
    shards[0].unlink()
    (first.work / "shards" / f"{shards[1].name}.tmp-killed").write_bytes(b"half a record")
    second = run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(FIXTURE))
    assert second.shards() == built.shards()
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert not list((second.work / "shards").glob("*.tmp-*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<!DOCTYPE html><html>", "not JSON but HTML"),
        ("", "the file is empty"),
        ("[1, 2]", "found a list"),
        ('{"images": [{"id": 1', "cut short"),
        ('{"images": [], "annotations": []}', "no 'categories' in the file"),
        ('{"images": [{"id": 1,}], "annotations": []}', "not valid JSON at character"),
    ],
)
def test_an_annotation_file_that_is_not_what_it_claims_gives_one_clear_error(raw, tmp_path, content, message):
    (raw / "annotations" / "instances_train2017.json").write_text(content)
    with pytest.raises(StageError, match=message) as caught:
        run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(raw))
    assert "instances_train2017.json" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_vqa_files_of_other_images_are_an_error(raw: Path, tmp_path: Path):
    for path in (raw / "vqa").glob("*.json"):
        for section in ("questions", "annotations"):
            edit(path, lambda v, s=section: [row.update(image_id=row["image_id"] + 5_000_000) for row in v.get(s, [])])
    with pytest.raises(StageError, match=r"none of its .* questions belongs to an image"):
        run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(raw))


def test_works_without_vqa_and_with_flat_images(raw: Path, tmp_path: Path):
    import shutil

    shutil.rmtree(raw / "vqa")
    for path in list((raw / "images").rglob("*.jpg")):
        path.rename(raw / "images" / path.name)
    built = run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(raw))
    assert built.stats["splits"] == {"train": 16, "validation": 8}
    assert "question" not in built.stats["records"] or built.stats["records"]["question"]["in"] == 0


def test_a_shard_that_lost_records_is_noticed_and_written_again(built: Built, tmp_path: Path):
    from beam_jobs.tfrecord import read_records, write_record

    first = run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(FIXTURE))
    shard = sorted((first.work / "shards").glob("*train.tfrecord-?????-of-?????"))[0]
    with shard.open("rb") as file:
        records = list(read_records(file, name=shard.name))
    with shard.open("wb") as file:
        for record in records[1:]:
            write_record(file, record)
    with pytest.raises(StageError, match=f"{len(records)} records were written but the file holds {len(records) - 1}"):
        run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(FIXTURE))
    assert run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(FIXTURE)).shards() == built.shards()
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(StageError, match="cannot be read back"):
        run_stage(BUILD_COCO, SMALL, tmp_path, raw=at(FIXTURE))
