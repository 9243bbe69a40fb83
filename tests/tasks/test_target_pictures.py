"""Tasks that answer with a picture: what stands on the target canvas and which codes count."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.stage1 import EVERYWHERE, count, example, objects, picture, record
from tests.tiny.scenes import encoded
from uio2.tasks import boxes, image, masks
from uio2.tasks.families import find_task

SEGMENTATION, INPAINTING = find_task("segmentation_coco_2017"), find_task("image_inpainting_coco")
DEPTH, NORMALS = find_task("depth_estimation"), find_task("surface_normals")
GENERATION = find_task("image_generation_coco_2017")
BOX = [0.2, 0.3, 0.8, 0.6]
CODES = (32, 32)


def disc(height: int = 60, width: int = 100) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - 30) ** 2 + (columns - 45) ** 2 < 15**2


def masked(mask: np.ndarray, pixels: np.ndarray | None = None) -> dict:
    return record(pixels, objects=objects([BOX], mask=tf.constant([encoded(mask.astype(np.uint8) * 255)])))


@pytest.mark.parametrize(("size", "onto"), [((384, 384), (256, 256)), ((96, 192), (64, 64)), ((96, 96), (64, 128))])
@pytest.mark.parametrize("source", [(480, 640), (640, 100), (37, 41)])
def test_the_target_canvas_shows_the_part_that_the_input_shows(size, onto, source):
    ratio = min(onto[0] / size[0], onto[1] / size[1])
    for draws in np.random.default_rng(0).uniform(size=(8, 4)).astype(np.float32):
        seen = image.place_randomly(tf.constant(source, tf.float32), size=size, draws=tf.constant(draws))
        target = image.follow(seen, size=size, onto=onto)
        # The corners of what is shown, as source coordinates, lie at the corners of the target's picture.
        whole = seen.scale.numpy() * np.array(source)
        start, stop = seen.offset.numpy() / whole, (seen.offset + seen.crop).numpy() / whole
        corners = boxes.to_canvas(tf.constant([*start, *stop], tf.float32), target, size=onto).numpy()
        expected = [*target.pad.numpy(), *(target.pad + target.crop).numpy()]
        np.testing.assert_allclose(corners, expected, atol=1.6)
        np.testing.assert_allclose(target.crop.numpy(), seen.crop.numpy() * ratio, atol=1)


def test_a_mask_becomes_a_picture_that_reads_back_as_the_mask():
    found = example(SEGMENTATION, masked(disc()))
    assert found["text_inputs"].startswith("[Image] [S] ")
    assert "dog" in found["text_inputs"]
    assert found["text_targets"] == ""
    assert found["image_targets"].shape == (256, 256, 3)
    again = masks.from_image(found["image_targets"], image_info=found["meta/truth/target_info"])
    assert (again & disc()).sum() / (again | disc()).sum() > 0.97
    np.testing.assert_array_equal(found["image_targets_mask"].any(axis=1).sum(), 153)


def test_a_random_crop_moves_mask_and_image_alike():
    pixels = np.repeat(disc()[..., None] * np.uint8(255), 3, axis=-1)
    for draw in (0.0, 0.4, 0.9):
        draws = (0.0, 0.0, 0.0, draw, 1 - draw, draw, draw, 0.0)
        found = example(SEGMENTATION, masked(disc(), pixels), training=True, augment=True, draws=draws)
        shown = tf.image.resize(found["image_inputs"], (256, 256), antialias=True).numpy() > 0.5
        target = found["image_targets"] > 0.5
        assert target.any()
        assert (shown & target).sum() / (shown | target).sum() > 0.9


def test_objects_without_a_mask_are_passed_over():
    data = encoded(disc().astype(np.uint8) * 255)
    stored = tf.constant([b"", data, data, data])
    several = objects([BOX, BOX, [0.5, 0.5, 0.5, 0.9], EVERYWHERE], mask=stored, crowd=(3,))
    assert count(SEGMENTATION, record(objects=several)) == 1
    assert example(SEGMENTATION, record(objects=several))["meta/example_id"] == "7/11"
    assert count(SEGMENTATION, record(objects=objects([], mask=tf.zeros([0], tf.string)))) == 0


def test_inpainting_hides_the_box_and_counts_what_touches_it_alone():
    plain = record(objects=objects([BOX], [1]))
    found = example(INPAINTING, plain)
    whole = image.place(tf.constant([60.0, 100.0]), size=(384, 384))
    y1, x1, y2, x2 = boxes.to_canvas(tf.constant(BOX), whole, size=(384, 384)).numpy()
    rows, columns = np.arange(384) + 0.5, np.arange(384) + 0.5
    inside = ((rows > y1) & (rows < y2))[:, None] & ((columns > x1) & (columns < x2))[None]
    assert not found["image_inputs"][inside].any()
    unhidden = image.render(tf.constant(picture()), whole, size=(384, 384)).numpy()
    edge = ((rows > y1 - 1) & (rows < y2 + 1))[:, None] & ((columns > x1 - 1) & (columns < x2 + 1))[None]
    np.testing.assert_array_equal(found["image_inputs"][~edge], unhidden[~edge])
    small = image.place(tf.constant([60.0, 100.0]), size=(256, 256))
    np.testing.assert_array_equal(
        found["image_targets"], image.render(tf.constant(picture()), small, size=(256, 256)).numpy()
    )
    y1, x1, y2, x2 = boxes.to_canvas(tf.constant(BOX), small, size=(256, 256)).numpy() / 8
    expected = np.zeros(CODES, bool)
    expected[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
    for key in ("image_targets_loss_mask", "image_targets_task_mask"):
        np.testing.assert_array_equal(found[key].reshape(CODES), expected)
    assert "cat" in found["text_inputs"]


def test_inpainting_of_a_speck_asks_for_its_code():
    found = example(INPAINTING, record(objects=objects([[0.5, 0.5, 0.5001, 0.5001]])))
    assert found["image_targets_loss_mask"].sum() == 1
    outside = record(objects=objects([[1.1, 0.5, 1.2, 0.6], [0.5, 0.5, 0.4, 0.6]]))
    assert count(INPAINTING, outside) == 0


def test_depth_is_white_at_the_camera_and_black_at_ten_metres():
    depth = np.full((60, 100), 2500, np.uint16)
    depth[:, 50:75] = 10_000
    depth[:, 75:] = 40_000
    depth[:, :25] = 0
    found = example(DEPTH, record(depth=tf.constant(encoded(depth))), image_target_size=(64, 64), image_size=(96, 96))
    row = found["image_targets"][32, :, 0]
    np.testing.assert_allclose(row, [0] * 16 + [0.75] * 16 + [0] * 32, atol=1e-6)
    counted = found["image_targets_loss_mask"].reshape(8, 8)
    np.testing.assert_array_equal(counted[4], [False] * 2 + [True] * 6)
    assert not counted[0].any()
    assert found["meta/truth/target_info"][[0, 1, 9, 10]].tolist() == [13, 0, 38, 64]


@pytest.mark.parametrize("task", [DEPTH, NORMALS], ids=lambda task: task.name)
def test_maps_that_measured_nothing_are_passed_over(task):
    blank = {DEPTH.name: np.zeros((60, 100), np.uint16), NORMALS.name: np.full((60, 100, 3), 128, np.uint8)}
    values = blank[task.name]
    for data, expected in ((b"", 0), (encoded(values), 0)):
        assert count(task, record(**{task.fields[0]: tf.constant(data)})) == expected
    values[3, 4] += 1
    assert count(task, record(**{task.fields[0]: tf.constant(encoded(values))})) == 1


def test_normals_keep_their_colours():
    colours = np.zeros((60, 100, 3), np.uint8) + np.array([200, 30, 128], np.uint8)
    colours[:, :50] = 128
    found = example(NORMALS, record(normals=tf.constant(encoded(colours))), image_target_size=(64, 64))
    np.testing.assert_allclose(found["image_targets"][32, 40] * 255, [200, 30, 128], atol=1e-4)
    assert not found["image_targets"][32, 20].any()
    np.testing.assert_array_equal(found["image_targets_loss_mask"].reshape(8, 8)[4], [False] * 4 + [True] * 4)


def test_generation_paints_the_whole_image_from_a_caption():
    captions = {"text": tf.constant([" ", "a  blue\tdoor"])}
    found = example(GENERATION, record(captions=captions))
    assert found["text_inputs"].startswith("[Image] [S] ")
    assert found["text_inputs"].endswith("a blue door")
    assert "image_inputs" not in found
    cropped = example(GENERATION, record(captions=captions), training=True, augment=True, draws=[0.3] * 8)
    np.testing.assert_array_equal(cropped["image_targets"], found["image_targets"])
    inside = found["image_targets"][found["image_targets_mask"]].reshape(153, 256, 3)
    expected = tf.image.resize(picture() / 255, (153, 256), antialias=True)
    np.testing.assert_allclose(inside, expected, atol=2e-3)
    assert count(GENERATION, record(captions={"text": tf.constant([" ", ""])})) == 0
