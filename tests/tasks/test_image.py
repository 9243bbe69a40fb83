"""Images onto the canvas, boxes along with them, and back."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import task_golden as golden
from uio2.tasks import boxes, image, locations

SIZE = (384, 384)


def put(pixels, placement, size):
    return image.render(tf.constant(pixels), placement, size=size).numpy()


def source_of(pixels):
    return tf.constant(pixels.shape[:2], tf.float32)


@pytest.mark.parametrize("shape", [(96, 96), (50, 120), (200, 40), (7, 500)])
@pytest.mark.parametrize("size", [(96, 96), (64, 128)])
def test_box_survives_the_way_to_the_canvas_and_back(shape, size):
    placement = image.place(tf.constant(shape, tf.float32), size=size)
    box = np.array([0.25, 0.1, 0.75, 0.9], np.float32)
    on_canvas = boxes.to_canvas(tf.constant(box), placement, size=size)
    text = boxes.to_text(on_canvas, size=size).numpy().decode()
    ratio = placement.info().numpy()[2]
    back = locations.undo_box(locations.parse_boxes(text, size=size)[0], image_info=placement.info().numpy())
    exact = box * np.array(shape * 2)
    np.testing.assert_allclose(back, exact, atol=ratio * max(size) * 2.5 / 1000)
    with pytest.raises(ValueError, match="crop offsets"):
        locations.undo_box(back, image_info=[0, 0, 1, 9, 9, 0, 0, 3, 0, 9, 9])


def test_patches_are_row_major_and_masked_by_their_centre():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:20, 40:] = 255
    size = (32, 32)
    placement = image.place(source_of(pixels), size=size)
    canvas = put(pixels, placement, size)
    assert canvas.shape == (32, 32, 3)
    assert canvas[:8].sum() == 0
    assert canvas[24:].sum() == 0
    mask = image.pixel_mask(placement, size=size)
    patches = image.patchify(canvas[None], patch=8).numpy()
    assert patches.shape == (1, 16, 192)
    np.testing.assert_array_equal(patches[0, 6].reshape(8, 8, 3), canvas[8:16, 16:24])
    expected = np.repeat([0, 1, 1, 0], 4)
    np.testing.assert_array_equal(image.patch_mask(mask[None], patch=8)[0], expected)


def test_an_image_of_the_canvas_size_is_not_resampled():
    pixels = golden.golden_image(3, 96, 96)
    placement = image.place(source_of(pixels), size=(96, 96))
    np.testing.assert_array_equal(put(pixels, placement, (96, 96)), pixels.astype(np.float32) * np.float32(1 / 255))


def check_placed(case, key, placement, size, step):
    pixels = golden.golden_image(case["i"], *case["hw"])
    np.testing.assert_allclose(placement.info().numpy(), case["image_info"], rtol=1e-6)
    mask = image.pixel_mask(placement, size=size).numpy()
    np.testing.assert_array_equal(np.packbits(mask, axis=1), golden.arrays()[f"{key}/mask_packbits"])
    canvas = put(pixels, placement, size)
    np.testing.assert_allclose(canvas[::step, ::step], golden.arrays()[f"{key}/image[::{step},::{step}]"], atol=1e-5)
    assert canvas.sum(dtype=np.float64) == pytest.approx(case["image_sum"], rel=1e-6)
    placed = boxes.to_canvas(tf.constant(golden.values()["boxes_in_normalized_yxyx"]), placement, size=size)
    kept = np.flatnonzero(boxes.has_area(placed))
    assert kept.tolist() == case["indices"]
    np.testing.assert_allclose(placed.numpy()[kept], case["boxes"], rtol=1e-5, atol=1e-4)
    return placed


@golden.needs_golden
@pytest.mark.parametrize("number", range(14))
def test_reference_eval_placements(number):
    case = golden.values()["resize_eval"][number]
    size = SIZE if case["is_input"] else (256, 256)
    placement = image.place(tf.constant(case["hw"], tf.float32), size=size)
    key = f"resize_eval/{case['i']}_{'input' if case['is_input'] else 'target'}"
    placed = check_placed(case, key, placement, size, 12)
    if case["boxes_str"]:
        assert " ".join(boxes.to_text(placed, size=size).numpy().astype(str)) == case["boxes_str"]


@golden.needs_golden
@pytest.mark.parametrize("number", range(28))
def test_reference_train_placements(number):
    case = golden.values()["resize_train"][number]
    draws = tf.constant(next(v for k, v in case.items() if k.startswith("uniforms")), tf.float32)
    placement = image.place_randomly(tf.constant(case["hw"], tf.float32), size=SIZE, draws=draws)
    check_placed(case, f"resize_train/{case['i']}_{number % 4}", placement, SIZE, 24)


@golden.needs_golden
def test_reference_box_texts():
    case = golden.values()["boxes_to_str"]
    texts = boxes.to_text(tf.constant(case["boxes_px_image_size_384"]), size=SIZE).numpy().astype(str)
    assert " ".join(texts) == case["str"]
