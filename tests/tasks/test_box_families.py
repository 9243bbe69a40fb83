"""Detection, localisation, keypoints and regions: what each makes of a record, and of a bad one."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.stage1 import EVERYWHERE, count, example, objects, record, source_boxes, without_locations
from uio2.tasks import keypoints, locations
from uio2.tasks.eval_feed import eval_examples
from uio2.tasks.families import find_task
from uio2.tasks.mixture import make_mixture
from uio2.tasks.vocabulary import UnifiedVocabulary

DETECTION, LOCALIZATION = find_task("object_detection_coco_2017"), find_task("localization_coco_2017")
KEYPOINTS, REGIONS = find_task("keypoints_coco_2017"), find_task("region_captioning")
# Two that can be asked about, and what has to be left out: nothing in it, upside down, outside, a crowd.
BAD = [[0.2, 0.2, 0.2, 0.9], [0.8, 0.1, 0.3, 0.9], [1.2, 0.1, 1.4, 0.3], [0.0, 0.0, 0.5, 0.5]]
GOOD = [[0.1, 0.2, 0.5, 0.6], [0.4, 0.5, 1.3, 0.9]]
MIXED = objects([BAD[0], GOOD[0], *BAD[1:], GOOD[1]], [0, 1, 1, 1, 1, 2], crowd=(4,))
IN_PIXELS = [[6, 20, 30, 60], [24, 50, 60, 90]]
# Of a picture of 60 x 100 and a canvas of 384: one step of a location in source pixels, twice.
STEP = 0.25
# Draws of a random crop: largest scale, the longer side overflows, the crop starts at the top left.
AT_LEFT = (0.0, 0.0, 0.0, 0.99, 0.0, 0.0, 0.0, 0.0)


def test_detection_lists_usable_objects_with_their_classes_in_stored_order():
    found = example(DETECTION, record(objects=MIXED))
    assert found["text_inputs"].startswith("[Text] [S] ")
    assert without_locations(found["text_targets"]) == "@ cat @ traffic light"
    np.testing.assert_allclose(source_boxes(found["text_targets"], found["meta/image_info"]), IN_PIXELS, atol=STEP)
    np.testing.assert_allclose(found["meta/truth/boxes"], IN_PIXELS, rtol=1e-6)
    assert found["meta/truth/labels"] == ["cat", "traffic light"]
    assert found["meta/truth/areas"].tolist() == [1, 5]
    np.testing.assert_allclose(found["meta/truth/crowd_boxes"], [[0, 0, 30, 50]])
    assert found["meta/truth/crowd_labels"] == ["cat"]


@pytest.mark.parametrize("task", [DETECTION, LOCALIZATION, KEYPOINTS], ids=lambda task: task.name)
@pytest.mark.parametrize("boxes", [[], BAD[:1], BAD[1:2], BAD[2:3]], ids=["none", "empty", "inverted", "outside"])
def test_images_without_a_usable_object_are_passed_over(task, boxes):
    points = tf.ones([len(boxes), 17, 3])
    assert count(task, record(objects=objects(boxes, keypoints=points))) == 0
    assert count(task, record(objects=objects([EVERYWHERE, *boxes], keypoints=tf.ones([len(boxes) + 1, 17, 3])))) == 1
    crowd = objects([EVERYWHERE, *boxes], keypoints=tf.ones([len(boxes) + 1, 17, 3]), crowd=(0,))
    assert count(task, record(objects=crowd)) == 0


def test_training_lists_the_same_boxes_in_a_drawn_order():
    many = record(objects=objects([[0.1 * n, 0.1 * n, 0.1 * n + 0.1, 0.1 * n + 0.2] for n in range(8)], [0] * 8))
    stored = example(DETECTION, many)
    listed = [
        example(DETECTION, many, training=True, draws=(0.0, 0.0, draw, *[0.0] * 5))["text_targets"]
        for draw in (0.1, 0.5, 0.9, 0.9)
    ]
    assert listed[2] == listed[3]
    assert len({*listed, stored["text_targets"]}) == 4
    for text in listed:
        assert sorted(locations.parse_boxes(text, size=(1, 1))) == locations.parse_boxes(
            stored["text_targets"], size=(1, 1)
        )


@pytest.mark.parametrize("limit", [7, 12, 13])
def test_long_lists_end_behind_a_whole_box(datasets, tokenizer, mixture, limit):
    """With this tokenizer an object is six tokens: four locations, a word marker and a digit."""
    recipe = dataclasses.replace(mixture.recipe, text_targets=limit, rates={DETECTION.name: 1.0})
    short = make_mixture(recipe, datasets=datasets, tokenizer=tokenizer)
    batch = next(eval_examples(short, task=DETECTION.name, batch_size=12))
    fitting = (limit - 1) // 6
    for row in batch.metadata:
        _, labels = locations.parse_labelled_boxes(row["target"], size=(1, 1))
        assert labels == np.array(row["truth/labels"]).astype(str).tolist()[:fitting]
        assert row["length_targets"] == 6 * len(labels) + 1
    assert max(len(row["truth/labels"]) for row in batch.metadata) >= 2


def test_a_random_crop_lists_what_it_shows_unless_that_is_nothing():
    settings = {"training": True, "augment": True, "draws": AT_LEFT, "image_size": (96, 96)}
    pixels = np.zeros((60, 240, 3), np.uint8)
    left, right = [0.1, 0.05, 0.9, 0.2], [0.1, 0.8, 0.9, 0.95]
    both = example(DETECTION, record(pixels, objects=objects([left, right], [0, 1])), **settings)
    assert without_locations(both["text_targets"]) == "@ dog"
    assert both["meta/image_info"][10] > 96
    lost = example(DETECTION, record(pixels, objects=objects([right], [1])), **settings)
    assert without_locations(lost["text_targets"]) == "@ cat"
    assert lost["meta/image_info"][9:].tolist() == [24, 96]
    one = example(LOCALIZATION, record(pixels, objects=objects([left, right], [1, 1])), **settings)
    assert without_locations(one["text_targets"]) == "@"


def test_localization_asks_for_each_class_and_lists_its_objects_alone():
    boxes = [[0.0, 0.0, 0.2, 0.2], GOOD[0], [0.6, 0.0, 1.0, 0.4]]
    several = record(objects=objects(boxes, [2, 1, 2]))
    assert count(LOCALIZATION, several) == 2
    first, second = (example(LOCALIZATION, several, item=n) for n in range(2))
    assert "traffic light" in first["text_inputs"]
    assert "cat" in second["text_inputs"]
    np.testing.assert_allclose(first["meta/truth/boxes"], [[0, 0, 12, 20], [36, 0, 60, 40]], rtol=1e-6)
    np.testing.assert_allclose(
        source_boxes(first["text_targets"], first["meta/image_info"]), first["meta/truth/boxes"], atol=STEP
    )
    assert first["meta/example_id"] != second["meta/example_id"]
    assert without_locations(second["text_targets"]) == "@"
    asked = {example(LOCALIZATION, several, training=True, draws=(d, *[0.0] * 7))["meta/example_id"] for d in (0, 0.9)}
    assert asked == {first["meta/example_id"], second["meta/example_id"]}


def test_localization_lists_end_behind_a_whole_box():
    many = record(objects=objects([GOOD[0]] * 9))
    for limit, boxes in ((4, 0), (5, 1), (12, 2), (13, 3), (512, 9)):
        text = example(LOCALIZATION, many, text_targets=limit)["text_targets"]
        assert text.count("<extra_id_") == 4 * boxes


def person() -> np.ndarray:
    """float32 [17, 3] in pixels of 60 x 100; every third part is not annotated, one lies outside the image."""
    points = np.stack([np.linspace(20, 60, 17), np.linspace(6, 30, 17), 1 + np.arange(17) % 2], axis=1)
    points[::3] = 0
    points[4] = 140, 20, 2
    return points.astype(np.float32)


def test_keypoints_name_what_is_annotated_and_shown():
    found = example(KEYPOINTS, record(objects=objects([GOOD[0]], keypoints=tf.constant(person()[None]))))
    assert source_boxes(found["text_inputs"], found["meta/image_info"])[0] == pytest.approx(IN_PIXELS[0], abs=STEP)
    np.testing.assert_allclose(found["meta/truth/keypoints"], person()[None])
    read = keypoints.from_text(found["text_targets"], size=(384, 384))
    expected = (person()[:, 2] > 0) & (np.arange(17) != 4)
    np.testing.assert_array_equal(read[:, 2] > 0, expected)
    back = [locations.undo_box([y, x, y, x], image_info=found["meta/image_info"])[1::-1] for x, y, _ in read[expected]]
    np.testing.assert_allclose(back, person()[expected, :2], atol=STEP)


@pytest.mark.parametrize("limit", [5, 6, 30])
def test_keypoints_end_behind_a_whole_part(tokenizer, limit):
    """In this tokenizer's pieces; what is left off would no longer have fitted."""
    vocabulary = UnifiedVocabulary.from_file(tokenizer)
    row = record(objects=objects([GOOD[0]], keypoints=tf.constant(person()[None])))
    whole = example(KEYPOINTS, row)["text_targets"]
    text = example(KEYPOINTS, row, tokens=lambda name: len(vocabulary.encode(name)), text_targets=limit)["text_targets"]
    assert len(vocabulary.encode(text)) < limit
    rest = whole.removeprefix(text).strip()
    following = re.match(r"(?:<extra_id_\d+> ){2}[a-z ]+", rest)[0].strip()
    assert len(vocabulary.encode(f"{text} {following}".strip())) >= limit
    assert rest.startswith("<extra_id_")


def test_a_person_without_annotated_parts_is_passed_over():
    bare = np.concatenate([person()[None], np.zeros((1, 17, 3), np.float32)])
    two = record(objects=objects([GOOD[0], GOOD[1]], keypoints=tf.constant(bare)))
    assert count(KEYPOINTS, two) == 1
    assert example(KEYPOINTS, two)["meta/example_id"] == "7/10"


def test_a_random_crop_keeps_a_part_of_the_person():
    """The crop shows the left of the box, the one annotated part is at its right."""
    points = np.zeros((1, 17, 3), np.float32)
    points[0, 0] = 230, 30, 2
    pixels = np.zeros((60, 240, 3), np.uint8)
    settings = {"training": True, "augment": True, "draws": AT_LEFT, "image_size": (96, 96)}
    wide = objects([[0.1, 0.0, 0.9, 1.0]], keypoints=tf.constant(points))
    found = example(KEYPOINTS, record(pixels, objects=wide), **settings)
    assert without_locations(found["text_targets"]) == "@ nose"
    assert found["meta/image_info"][9:].tolist() == [24, 96]
    points[0, 0, 0] = 10
    wide["keypoints"] = tf.constant(points)
    assert example(KEYPOINTS, record(pixels, objects=wide), **settings)["meta/image_info"][10] > 96


def test_region_captions_pass_over_blank_phrases_and_empty_boxes():
    boxes = tf.constant([BAD[0], GOOD[1], EVERYWHERE, BAD[2]], tf.float32)
    phrases = tf.constant(["nothing", "a \n red  door ", " ", "outside"])
    regions = {"bbox": boxes, "id": tf.range(4, dtype=tf.int64), "phrase": phrases}
    assert count(REGIONS, record(regions=regions)) == 1
    found = example(REGIONS, record(regions=regions))
    assert found["text_targets"] == "a red door"
    np.testing.assert_allclose(found["meta/box"], IN_PIXELS[1], rtol=1e-6)
    assert source_boxes(found["text_inputs"], found["meta/image_info"])[0] == pytest.approx(IN_PIXELS[1], abs=STEP)
    empty = {"bbox": boxes[:0], "id": regions["id"][:0], "phrase": phrases[:0]}
    assert count(REGIONS, record(regions=empty)) == 0
