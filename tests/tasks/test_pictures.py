"""Resize methods, frames, keypoints, masks and lists of boxes."""

from __future__ import annotations

import dataclasses
import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.tasks import task_golden as golden
from uio2.tasks import boxes, image, keypoints, locations, masks, video
from uio2.tasks.families.referring_expression import ReferringExpression
from uio2.tasks.feed import Feed
from uio2.tasks.prompts import Prompts
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Setting, preprocessor

SIZE = (384, 384)


@golden.needs_golden
@pytest.mark.parametrize("number", range(8))
def test_reference_resize_methods(number):
    name = golden.values()["resize_methods_sorted"][number]
    placement = image.place(tf.constant([480.0, 640.0]), size=(288, 384))
    pixels = tf.constant(golden.golden_image(0, 480, 640))
    found = image.render(pixels, placement, size=(288, 384), method=tf.constant(number))
    stored = golden.arrays()[f"resize_methods/{name}_480x640_to_288x384[::12,::12]"]
    np.testing.assert_allclose(found[::12, ::12], stored, atol=1e-5)
    assert name.lower().startswith(image.METHODS[number])


@golden.needs_golden
def test_reference_video_frames():
    case = golden.values()["video"]
    frames = tf.constant(np.stack([golden.golden_image(i, 120, 160) for i in (20, 21)]))
    small = image.place(tf.constant([120.0, 160.0]), size=(256, 256))
    found = image.render_frames(frames, small, size=(256, 256))
    np.testing.assert_allclose(found[:, ::16, ::16], golden.arrays()["video/image[:,::16,::16]"], atol=1e-5)
    assert found.numpy().sum(dtype=np.float64) == pytest.approx(case["sum"], rel=1e-6)
    assert 2 * image.pixel_mask(small, size=(256, 256)).numpy().sum() == case["mask_sum"]


def test_the_last_frame_is_the_image_and_the_first_ones_the_history():
    files = []
    for level in (0, 50, 100, 150, 200):
        buffer = io.BytesIO()
        Image.fromarray(np.full((24, 48, 3), level, np.uint8)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    frames = video.decode_frames(tf.constant(files))
    recipe = RegisterSpec(image_size=(48, 48), image_history_size=(32, 32), num_frames=3)
    found, placement = video.features(frames, recipe=recipe)
    assert placement.info().numpy()[:5].tolist() == [12, 0, 1, 24, 48]
    assert found["image_inputs"].numpy().max() == pytest.approx(200 / 255)
    assert found["image_history_inputs"].shape == (3, 32, 32, 3)
    np.testing.assert_allclose(found["image_history_inputs"].numpy().max(axis=(1, 2, 3)) * 255, [0, 50, 100], atol=1e-3)
    assert found["image_history_inputs_mask"].numpy().sum(axis=(1, 2)).tolist() == [32 * 16] * 3
    alone, _ = video.features(frames[:1], recipe=recipe)
    assert alone["image_history_inputs"].shape == (0, 32, 32, 3)


def test_frames_are_spread_evenly():
    assert video.spread(100, count=5).numpy().tolist() == [10, 30, 50, 70, 90]
    assert video.spread(3, count=5).numpy().tolist() == [0, 1, 2]
    assert video.spread(0, count=5).numpy().tolist() == []


def test_an_image_of_one_line_or_one_pixel_is_placed():
    for shape in ((1, 4000), (4000, 1), (1, 1)):
        source = tf.constant(shape, tf.float32)
        pixels = tf.fill([*shape, 3], tf.constant(255, tf.uint8))
        for placement in (
            image.place(source, size=SIZE),
            image.place_randomly(source, size=SIZE, draws=tf.fill([4], 0.5)),
        ):
            canvas = image.render(pixels, placement, size=SIZE)
            assert np.isfinite(canvas).all()
            assert canvas.numpy().max() == pytest.approx(1.0)


def test_box_lists_leave_out_what_has_no_area():
    inverted, outside, flat = [0.5, 0.5, 0.2, 0.9], [1.2, 0.1, 1.4, 0.3], [0.1, 0.1, 0.1, 0.8]
    given = tf.constant([inverted, [0.0, 0.0, 0.5, 1.0], outside, flat, [np.nan] * 4, [0.5, 0.0, 1.0, 1.0]])
    placement = image.place(tf.constant([100.0, 100.0]), size=(96, 96))
    found, kept = boxes.usable(given, placement, size=(96, 96))
    assert kept.numpy().tolist() == [1, 5]
    np.testing.assert_allclose(found[0], [0, 0, 48, 96])
    order = boxes.shuffle(5, tf.constant(0.3)).numpy().tolist()
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order == boxes.shuffle(5, tf.constant(0.3)).numpy().tolist()
    assert len({tuple(boxes.shuffle(5, tf.constant(d, tf.float32)).numpy()) for d in np.linspace(0, 0.99, 20)}) > 10


@golden.needs_golden
def test_reference_labelled_boxes():
    case = golden.values()["boxes_to_str"]
    texts = boxes.to_text(tf.constant(case["boxes_px_image_size_384"]), size=SIZE)
    labels = tf.constant(list("abcd"))
    assert boxes.list_text(texts, labels=labels, separator=", ").numpy().decode() == case["with_labels_sep_comma"]
    assert boxes.list_text(texts).numpy().decode() == case["str"]
    values = [float(v) for v in case["values_to_tokens"]]
    assert boxes.location_pieces(tf.constant(values)).numpy().astype(str).tolist() == list(
        case["values_to_tokens"].values()
    )


def test_keypoints_survive_the_way_to_text_and_back():
    rng = np.random.default_rng(0)
    points = rng.uniform(0.1, 0.9, (17, 2)).astype(np.float32)
    seen = np.arange(17) % 4 != 1
    placement = image.place(tf.constant([200.0, 300.0]), size=SIZE)
    placed, inside = keypoints.to_canvas(tf.constant(points), placement, size=SIZE)
    assert inside.numpy().all()
    text = keypoints.to_text(placed, tf.constant(seen), size=SIZE).numpy().decode()
    assert text.startswith("<extra_id_")
    assert "left eye" not in text
    found = keypoints.from_text(text, size=SIZE)
    np.testing.assert_allclose(found[seen][:, 1::-1], placed.numpy()[seen], atol=384 * 2 / 1000)
    assert found[:, 2].tolist() == np.where(seen, 2, 0).tolist()
    np.testing.assert_allclose(found[~seen, :2], np.tile(found[seen, :2].mean(0), ((~seen).sum(), 1)))


def test_keypoints_outside_the_crop_or_of_no_known_part():
    source = tf.constant([400.0, 400.0])
    crop = image.place_randomly(source, size=(100, 100), draws=tf.constant([0.5, 0.2, 0.0, 0.0]))
    _, inside = keypoints.to_canvas(tf.constant([[0.0, 0.0], [1.0, 1.0]]), crop, size=(100, 100))
    assert inside.numpy().tolist() == [True, False]
    assert keypoints.to_text(tf.zeros([17, 2]), tf.fill([17], False), size=SIZE).numpy() == b""
    assert keypoints.from_text("", size=SIZE) is None
    assert keypoints.from_text("<extra_id_300> <extra_id_300> tail", size=SIZE) is None


def test_masks_survive_the_way_to_a_target_image_and_back():
    rows, columns = np.mgrid[:60, :100]
    mask = (rows - 30) ** 2 + (columns - 40) ** 2 < 20**2
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]]))).tolist()
    counts = np.diff([0, *edges, flat.size])
    again = masks.from_counts(tf.constant(counts), size=tf.constant([60, 100])).numpy()
    np.testing.assert_array_equal(again, mask)
    placement = image.place(tf.constant([60.0, 100.0]), size=(256, 256))
    target = masks.to_target(tf.constant(mask), placement, size=(256, 256)).numpy()
    assert set(np.unique(target)) == {0.0, 1.0}
    found = masks.from_image(target, image_info=placement.info().numpy())
    assert found.shape == mask.shape
    assert (found & mask).sum() / (found | mask).sum() > 0.97
    with pytest.raises(ValueError, match="crop offsets"):
        masks.from_image(target, image_info=[0, 0, 1, 9, 9, 0, 0, 3, 0, 9, 9])


@pytest.mark.parametrize("counts", [[], [5], [0, 5000], [3, 4, 10_000]])
def test_run_lengths_that_do_not_fit_are_cut_or_filled(counts):
    found = masks.from_counts(tf.constant(counts, tf.int32), size=tf.constant([6, 7])).numpy()
    assert found.shape == (6, 7)


def test_location_values_read_back_within_a_step():
    """Writing counts in steps of 1/999 and reading texts in 1/1000, as published predictions were: not an inverse."""
    for value in np.linspace(0, 1, 101):
        text = locations.values_to_text([value] * 4)
        read = locations.parse_boxes(text, size=(1, 1))[0][0]
        assert -1e-6 <= value - read < 2.1 / 1000
        number = int(text.split("_")[2].split(">")[0])
        token = locations.extra_id_token(number, base_size=400)
        assert abs(locations.tokens_to_values([token], base_size=400)[0] - value) < 1.001 / 999


def test_random_resize_is_a_function_of_the_draw(mixture):
    recipe = dataclasses.replace(mixture.recipe, augment=True, resize="random", rates={"image_caption_coco_2017": 1.0})
    sharp = dataclasses.replace(mixture, recipe=recipe)
    one, two = (next(itertools.islice(Feed(sharp, seed=0).batches(batch_size=8), 1)) for _ in range(2))
    np.testing.assert_array_equal(one["inputs/image/input"], two["inputs/image/input"])
    plain = dataclasses.replace(mixture, recipe=dataclasses.replace(recipe, resize="bilinear"))
    other = next(itertools.islice(Feed(plain, seed=0).batches(batch_size=8), 1))
    differing = np.abs(one["inputs/image/input"] - other["inputs/image/input"]).max(axis=(1, 2)) > 1e-3
    assert differing.sum() > 0
    np.testing.assert_array_equal(one["inputs/image/mask"], other["inputs/image/mask"])


@golden.needs_golden
def test_reference_referring_expression():
    """The whole of stage 1 of one task, with the reference's prompt."""
    case = golden.values()["refexp_pipeline"]
    buffer = io.BytesIO()
    Image.fromarray(golden.golden_image(0, 480, 640)).save(buffer, "PNG")
    record = {
        "image": tf.constant(buffer.getvalue()), "image/id": tf.constant(12),
        "objects": {
            "bbox": tf.constant([case["meta"]["src_boxes"]], tf.float32),
            "refexp": {"raw": tf.ragged.constant([["A big DOG"]]), "refexp_id": tf.ragged.constant([[12]])},
        },
    }  # fmt: skip
    prompts = Prompts("referring_expression", ("expression",), (), "find {expression} please")
    prepare = preprocessor(ReferringExpression(), setting=Setting(RegisterSpec()), prompts=prompts)
    found = {k: v.numpy() for k, v in prepare(record, tf.constant(0), tf.zeros(8)).items()}
    assert found["text_inputs"].decode() == case["text_inputs"]
    assert found["text_targets"].decode() == case["text_targets"]
    np.testing.assert_allclose(found["meta/image_info"], case["meta"]["image_info"], rtol=1e-6)
    assert found["image_inputs"].sum(dtype=np.float64) == pytest.approx(case["image_sum"], rel=1e-6)
