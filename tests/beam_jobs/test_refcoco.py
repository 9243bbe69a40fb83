"""`build-refcoco`: references as TFDS `ref_coco` has them, from JSON and from pickles that are never run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from beam_jobs import refer_pickle
from beam_jobs.specs import BUILD_REFCOCO, RefCocoSpec
from tests.beam_jobs.conftest import FIXTURE, Built, at, edit, run_stage
from uio2.pipeline.stage import StageError

REFER = FIXTURE / "refer" / "refcocog"
SMALL = RefCocoSpec(num_shards=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return run_stage(BUILD_REFCOCO, SMALL, tmp_path_factory.mktemp("refcoco"), raw=at(FIXTURE))


def test_examples_hold_each_reference_with_its_box_and_expressions(built: Built):
    refs = json.loads((REFER / "refs(umd).json").read_text())
    instances = json.loads((REFER / "instances.json").read_text())
    boxes = {a["id"]: a["bbox"] for a in instances["annotations"]}
    sizes = {i["id"]: (i["width"], i["height"]) for i in instances["images"]}
    found = {}
    for split in ("train", "validation"):
        for example in built.examples(split):
            image_id, objects = int(example["image/id"]), example["objects"]
            assert example["image"].shape[:2] == sizes[image_id][::-1]
            expressions = objects["refexp"]["raw"].to_list()
            for row, annotation in enumerate(objects["id"]):
                index = objects["gt_box_index"][row]
                assert example["coco_annotations"]["id"][index] == annotation
                np.testing.assert_array_equal(example["coco_annotations"]["bbox"][index], objects["bbox"][row])
                found[int(annotation)] = (split, [e.decode() for e in expressions[row]], objects["bbox"][row])
    assert len(found) == len(refs)
    for ref in refs:
        split, expressions, box = found[ref["ann_id"]]
        assert split == {"train": "train", "val": "validation"}[ref["split"]]
        assert expressions == [s["raw"] for s in ref["sentences"]]
        (width, height), (x, y, w, h) = sizes[ref["image_id"]], boxes[ref["ann_id"]]
        np.testing.assert_allclose(box, [y / height, x / width, (y + h) / height, (x + w) / width], rtol=1e-6)


def test_counts_add_up_to_the_sentences_of_the_source(built: Built):
    refs = json.loads((REFER / "refs(umd).json").read_text())
    records = built.stats["records"]
    assert records["ref"]["in"] == records["ref"]["written"] == len(refs)
    assert records["expression"]["written"] == sum(len(r["sentences"]) for r in refs)
    assert built.stats["variant"] == "refcocog_umd"


def test_seqio_reads_it_under_its_usual_name(built: Built):
    import seqio

    source = seqio.TfdsDataSource("ref_coco:1.0.0", tfds_data_dir=str(built.out))
    assert len(list(source.get_dataset(split="train", shuffle=False))) == built.stats["splits"]["train"]


def test_the_pickle_gives_the_same_dataset_as_the_json(built: Built, raw: Path, tmp_path: Path):
    (raw / "refer" / "refcocog" / "refs(umd).json").unlink()
    again = run_stage(BUILD_REFCOCO, SMALL, tmp_path, raw=at(raw))
    assert again.shards() == built.shards()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_read_from_every_pickle_protocol(tmp_path: Path, protocol: int):
    value = [
        {"a": 1, "b": [-2, 3.5, None, True, False], "c": ("x", "Zürich", ""), "long": 1 << 70, "d": {}},
        "again",
        "again",
    ]
    path = tmp_path / "refs(x).p"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert refer_pickle.load(str(path)) == value


def test_a_python_2_pickle_is_read(tmp_path: Path):
    # What cPickle of Python 2 writes for [{'split': 'val', 'ref_id': 7}] at protocol 0.
    path = tmp_path / "refs(x).p"
    path.write_bytes(b"(lp1\n(dp2\nS'split'\np3\nS'val'\np4\nsS'ref_id'\np5\nI7\nsa.")
    assert refer_pickle.load(str(path)) == [{"split": "val", "ref_id": 7}]


class _Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(raw: Path, tmp_path: Path, protocol: int):
    harm = tmp_path / "harm"
    refs = raw / "refer" / "refcocog" / "refs(umd).p"
    refs.with_suffix(".json").unlink()
    refs.write_bytes(pickle.dumps([_Evil(harm)], protocol=protocol))
    with pytest.raises(StageError, match=r"refs\(umd\).p: opcode .*GLOBAL.* nothing in it was run"):
        run_stage(BUILD_REFCOCO, SMALL, tmp_path, raw=at(raw))
    assert not harm.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"]q\x00(}", b"a.", b"h\x05."])
def test_a_damaged_pickle_gives_one_clear_error(tmp_path: Path, content: bytes):
    path = tmp_path / "refs(x).p"
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"refs\(x\)\.p: not a whole pickle of plain data"):
        refer_pickle.load(str(path))


def test_refs_of_missing_images_are_counted_but_do_not_fail_a_subset(raw: Path, tmp_path: Path):
    for image_id in range(1, 9):
        (raw / "images" / "train2017" / f"{image_id:012d}.jpg").unlink()
    built = run_stage(BUILD_REFCOCO, SMALL, tmp_path, raw=at(raw))
    assert built.stats["splits"] == {"train": 8, "validation": 8}
    assert built.stats["records"]["image"]["dropped"] == {"image_missing": 8}
    for row in built.stats["records"].values():
        assert row["in"] == row["written"] + sum(row["dropped"].values())


def test_bad_references_become_dead_letters(raw: Path, tmp_path: Path):
    def spoil(refs):
        refs[0]["ann_id"] = 999
        refs[1]["split"] = "holdout"
        refs[2]["sentences"] = []
        refs[3]["image_id"] = 4_000_000
        refs.append(dict(refs[4]))

    edit(raw / "refer" / "refcocog" / "refs(umd).json", spoil)
    built = run_stage(BUILD_REFCOCO, RefCocoSpec(num_shards=1, max_dropped_fraction=0.5), tmp_path, raw=at(raw))
    assert built.stats["records"]["ref"]["dropped"] == {
        "annotation_missing": 1,
        "duplicate_id": 1,
        "image_not_listed": 1,
        "no_sentences": 1,
        "unknown_split": 1,
    }


def test_a_source_with_one_split_only(raw: Path, tmp_path: Path):
    edit(raw / "refer" / "refcocog" / "refs(umd).json", lambda refs: [r.update(split="testA") for r in refs])
    built = run_stage(BUILD_REFCOCO, SMALL, tmp_path, raw=at(raw))
    assert set(built.stats["splits"]) == {"testA"}


def test_asking_for_refs_that_are_not_there_names_those_that_are(tmp_path: Path):
    with pytest.raises(StageError, match=r"dataset = 'refcoco'.*there: refcocog/refs\(umd\)"):
        run_stage(BUILD_REFCOCO, RefCocoSpec(dataset="refcoco"), tmp_path, raw=at(FIXTURE))
