"""The corpus of bad annotation files: each fault has its dead letter or ends the build in an error that names it.

Its images are in `test_image_text.py`, its sound in `test_speech.py`, its tables in `test_audio_captions.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from beam_jobs import coco_rows
from beam_jobs.dead_letters import Letter
from beam_jobs.specs import BUILD_COCO, BUILD_REFCOCO, CocoSpec, RefCocoSpec
from tests.beam_jobs.conftest import SHARED, Built, edit, needs_shared, picture, pointing, run_stage
from uio2.pipeline.stage import StageError

pytestmark = needs_shared

NASTY = SHARED / "nasty" / "annotations"
MINI = SHARED / "coco_mini"
ALL = CocoSpec(num_shards=1, max_dropped_fraction=1.0, masks=True)
# Key of the dead letter -> reason. What is not here is kept: boxes partly outside are cut off at the edge.
DROPPED = {
    "nan_inf_boxes.json": {"22328": "bad_box", "100948": "bad_box", "102453": "bad_area", "125737": "bad_box"},
    "bad_boxes.json": {
        "37777/22328": "empty_box",
        "37777/100948": "empty_box",
        "37777/102453": "empty_box",
        "426554": "bad_box",
        "618157": "bad_box",
        "135561/332476": "empty_box",
        "135561/334103": "empty_box",
        "1128478": "missing_field",
    },
    "crowd_rle_genuine.json": {},
    "duplicate_ids.json": {
        "37777/22328": "duplicate_id",
        "37777": "duplicate_image",
        "87038": "duplicate_image",
        "87038/1217974": "duplicate_id",
        "9223372036854775813": "out_of_range",
    },
    "bad_images_section.json": {
        "37777": "size_mismatch",
        "87038": "bad_size",
        "117645": "missing_field",
        "135561": "path_escape",
        "9000": "path_escape",
        "9001": "image_missing",
        "9002": "image_missing",
        "9003": "path_escape",
        "9004": "path_escape",
        "9005": "image_missing",
        "9006": "image_missing",
        "9007": "image_missing",
        "9008": "wrong_type",
        "9009": "wrong_type",
    },
}
CAPTIONS = {
    "captions_utf8_bom.json": [],
    "captions_one_bad_byte.json": ["597185"],
    "captions_lone_surrogate.json": ["597185"],
    "captions_latin1.json": ["597185", "598568", "599939"],
}
REFUSED = {
    "cut.json": "cut short",
    "empty.json": "the file is empty",
    "top_level_list.json": "found a list",
    "no_images_key.json": "no 'images' in the file",
    "trailing_comma.json": "a comma before '}'",
    "single_quotes.json": "found a list",
    "gzip_named.json": "gzip data",
    "html_named.json": "HTML",
}


def _build(tmp_path: Path, source: Path) -> Built:
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    shutil.copy(source, annotations / "instances_val2017.json")
    return run_stage(BUILD_COCO, ALL, tmp_path, raw=pointing(tmp_path / "raw", images=MINI, annotations=annotations))


@pytest.mark.parametrize("name", DROPPED)
def test_every_bad_item_has_a_dead_letter_and_the_others_are_kept(name: str, tmp_path: Path):
    source = NASTY / name
    if name == "duplicate_ids.json":
        source = tmp_path / name
        shutil.copy(NASTY / name, source)
        edit(source, lambda v: v["categories"].pop())
    built = _build(tmp_path, source)
    # An image that is dropped leaves its annotations without one.
    found = {letter["key"]: letter["reason"] for letter in built.letters() if letter["reason"] != "image_not_listed"}
    assert found == DROPPED[name]
    built.check_counts()
    assert built.examples("validation")


def test_bytes_that_are_not_text_cost_their_captions():
    for name, keys in CAPTIONS.items():
        items = list(coco_rows.captions(str(NASTY / name), split="validation", folder=""))
        letters = [item for item in items if isinstance(item, Letter)]
        assert [letter.key for letter in letters] == keys, name
        assert {letter.reason for letter in letters} <= {"bad_text"}
        assert len(items) > 10 + len(keys)


def test_a_file_that_is_no_annotation_file_is_one_clear_error():
    for name, message in REFUSED.items():
        with pytest.raises(StageError, match=message) as caught:
            list(coco_rows.instances(str(NASTY / name), split="", folder=""))
        assert name in str(caught.value)


def test_two_categories_of_one_id_are_an_error(tmp_path: Path):
    with pytest.raises(StageError, match="category 1 is 'duplicate of person id' in one place and 'person' in another"):
        _build(tmp_path, NASTY / "duplicate_ids.json")


def test_questions_and_answers_that_do_not_match(tmp_path: Path):
    bad = json.loads((NASTY / "vqa_bad.json").read_text())
    images: list[dict[str, Any]] = []
    for number in sorted({row["image_id"] for rows in bad.values() for row in rows}):
        picture(tmp_path / "images" / f"{number}.jpg", size=(4, 4))
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 4, "height": 4})
    files = {
        "annotations/captions_val2017.json": {"images": images, "annotations": []},
        "vqa/v2_OpenEnded_mscoco_val2014_questions.json": {"questions": bad["questions"]},
        "vqa/v2_mscoco_val2014_annotations.json": {"annotations": bad["annotations"]},
    }
    for name, value in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    roots = {role: tmp_path / role for role in ("images", "annotations", "vqa")}
    built = run_stage(BUILD_COCO, ALL, tmp_path, raw=pointing(tmp_path / "raw", **roots))
    found = {(letter["kind"], letter["key"].rpartition("/")[2]): letter["reason"] for letter in built.letters()}
    unusable = {"92000": "answer_count", "154004": "answer_count"}
    unusable |= dict.fromkeys(("436020", "984009", "1090001"), "wrong_type")
    assert found == {
        **{("answer", key): reason for key, reason in unusable.items()},
        **{("question", key): "no_answers" for key in (*unusable, "154012")},
        ("question", "3314000"): "empty_question",
        ("question", "3276009"): "duplicate_id",
        ("answer", "1558003"): "duplicate_id",
        ("answer", "1"): "no_question",
        ("answer", "3314000"): "no_question",
    }
    built.check_counts()


def test_references_with_missing_parts(tmp_path: Path):
    folder = tmp_path / "refer" / "refcoco"
    folder.mkdir(parents=True)
    shutil.copy(NASTY / "refs_bad.p", folder / "refs(unc).p")
    shutil.copy(MINI / "annotations" / "instances_train2017.json", folder / "instances.json")
    raw = pointing(tmp_path / "raw", images=MINI, refer=tmp_path / "refer")
    built = run_stage(BUILD_REFCOCO, RefCocoSpec(num_shards=1, max_dropped_fraction=1.0), tmp_path, raw=raw)
    # Two of its references stand there twice, and are judged before ids are compared.
    assert sorted((letter["key"], letter["reason"]) for letter in built.letters()) == [
        *[("4", "unknown_split")] * 2,
        *[("5", "no_sentences")] * 2,
    ]
    (example,) = built.examples("validation")
    # Tokens are not read, and neither is `sent`, of which one is blank: the text is `raw`.
    texts = example["objects"]["refexp"]["raw"].flat_values.numpy()
    assert [text[:7] for text in texts] == [b"a woman", b"a man i"]
    built.check_counts()
