"""Ways of scoring beyond the digits' own, on rows made by hand: perfect answers, wrong ones, none."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from uio2.evaluate.families import FAMILIES
from uio2.evaluate.media import write_media
from uio2.evaluate.predictions import Header, Prediction, PredictionsError, TaskPredictions
from uio2.tasks.keypoints import COCO_PARTS
from uio2.tasks.locations import values_to_text
from uio2.tasks.metrics.result import Resampling

# A 100x100 image on a canvas of its size.
INFO = (0.0, 0.0, 1.0, 100.0, 100.0, 0.0, 0.0, 0.0, 0.0, 100.0, 100.0)
# A 20x40 (height x width) image on a 16x16 canvas of target pictures: scale 0.4, 4 rows of padding above and below.
TARGET_INFO = [4.0, 0.0, 2.5, 20.0, 40.0, 0.0, 0.0, 0.0, 0.0, 8.0, 16.0]
HEADER = Header("t", "validation", 0, 1, 0, 0, {"method": "greedy"}, "c" * 64, "d" * 64, (100, 100))


def row(index, text="", **fields):
    fields = {"targets": (), "image_id": index} | fields
    return Prediction(
        example_id=f"e{index}", index=index, task="t", prompt="", text=text, tokens=(5, 6), logprob=-0.5 - index,
        image_info=INFO, **fields,
    )  # fmt: skip


def score(way, rows, folder=None):
    found = TaskPredictions(HEADER, tuple(rows), folder)
    scores = FAMILIES[way].score(found.rows, FAMILIES[way].read(found), Resampling(resamples=50))
    values = {name: result.value for name, result in scores.only(FAMILIES[way].metrics).results.items()}
    return values, scores.per_example


def box_text(y1, x1, y2, x2):
    return values_to_text([y1 / 100, x1 / 100, y2 / 100, x2 / 100])


def test_detection_by_class_and_order():
    truth = {"boxes": [[10, 10, 50, 50], [60, 60, 90, 90]], "labels": ["cat", "dog"]}
    both = f"{box_text(10, 10, 50, 50)} cat {box_text(60, 60, 90, 90)} dog"
    swapped = f"{box_text(10, 10, 50, 50)} dog {box_text(60, 60, 90, 90)} cat"
    values, alone = score("detection", [row(0, both, truth=truth), row(1, both, truth=truth)])
    assert values["ap50"] == pytest.approx(1)
    assert values["ap"] > 0.9  # reading in thousandths costs a pixel's tenth
    np.testing.assert_allclose(alone["grit"], 1, atol=0.02)
    values, alone = score("detection", [row(0, swapped, truth=truth), row(1, "", truth=truth)])
    assert (values["ap50"], alone["grit"].tolist()) == (0, [0, 0])
    crowd = truth | {"boxes": truth["boxes"][:1], "labels": ["cat"], "areas": [900],
                     "crowd_boxes": [[55, 55, 95, 95]], "crowd_labels": ["dog"]}  # fmt: skip
    values, _ = score("detection", [row(0, both, truth=crowd)])
    assert values["ap50"] == pytest.approx(1)


def test_localization_pays_for_extra_boxes():
    truth = {"boxes": [[10, 10, 50, 50]]}
    two = f"{box_text(10, 10, 50, 50)} {box_text(60, 60, 90, 90)}"
    values, alone = score("localization", [row(0, box_text(10, 10, 50, 50), truth=truth), row(1, two, truth=truth)])
    np.testing.assert_allclose(alone["grit"], [1, 0.5], atol=0.02)
    assert values["grit"] == pytest.approx(0.75, abs=0.02)


def test_persons_of_one_image_are_scored_together():
    points = np.stack([np.linspace(20, 80, 17), np.linspace(10, 90, 17), np.full(17, 2)], axis=1)
    said = " ".join(
        f"{values_to_text([y / 100, x / 100])} {name}" for (x, y, _), name in zip(points, COCO_PARTS, strict=True)
    )
    other = points.copy()
    other[:, 0] = 100 - other[:, 0]
    persons = [
        row(0, said, image_id=7, true_box=(5, 15, 95, 85), truth={"keypoints": [points.tolist()]}),
        row(1, "nobody", image_id=7, true_box=(5, 15, 95, 85), truth={"keypoints": [other.tolist()]}),
    ]
    values, alone = score("keypoints", persons)
    assert alone["similarity"][0] == pytest.approx(1, abs=0.01)
    assert alone["similarity"][1] == 0
    assert values["grit"] == pytest.approx(0.5, abs=0.01)
    assert values["ap50"] == pytest.approx(0.505, abs=0.01)  # recall 1/2 at precision 1, read at 101 places


def test_texts_of_sound_and_instructions():
    rows = [row(0, "the cat sat", targets=("The cat sat.",)), row(1, "well", targets=("it is me",))]
    values, alone = score("wer", rows)
    assert values["wer"] == pytest.approx(3 / 6)
    assert alone["wer"].tolist() == [0, 1]
    values, _ = score("text", [row(0, "A red cat. ", targets=("a red cat.",)), row(1, "a cat", targets=("a red cat",))])
    assert values["exact_match"] == 0.5
    assert values["rouge_l"] == pytest.approx((1 + 0.8) / 2)
    rows = [row(0, "bark, dog", targets=("dog, bark",)), row(1, "dog", targets=("rain",), truth={"labels": ["Rain"]})]
    values, alone = score("audio_tagging", rows)
    assert alone["overlap"].tolist() == [1, 0]
    # bark is first where it is there; dog second behind the wrong one; rain never named, so it ties with the others.
    assert values["map"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    rows = [row(0, "Cat", targets=("dog", "cat")), row(1, "dog", targets=("bird",))]
    assert score("classification", rows)[0] == {"accuracy": 0.5, "balanced_accuracy": 0.5}


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"base64": base64.b64encode(buffer.getvalue()).decode()}


def painted(folder, index, canvas, **truth):
    """A row whose answer is this target canvas [16, 16]."""
    (folder / "p").mkdir(exist_ok=True)
    pixels = canvas if canvas.ndim == 3 else np.repeat(canvas[..., None], 3, axis=-1)
    write_media(folder / f"p/{index}.png", pixels)
    return row(index, media=f"p/{index}.png", truth={**truth, "target_info": TARGET_INFO})


def test_masks_come_back_to_the_source_image(tmp_path):
    true = np.zeros((20, 40), np.uint8)
    true[:10, :20] = 255
    canvas = np.zeros((16, 16))
    canvas[4:8, :8] = 1
    canvas[:4] = 1  # on the padding, which is no part of the answer
    rows = [painted(tmp_path, 0, canvas, mask=png(true)), painted(tmp_path, 1, np.zeros((16, 16)), mask=png(true))]
    values, alone = score("segmentation", rows, tmp_path)
    np.testing.assert_allclose(alone["mask"], [1, 0], atol=1e-6)
    assert values == pytest.approx({"grit": 0.5, "mask": 0.5}, abs=1e-6)


def test_depth_is_metres(tmp_path):
    true = np.full((20, 40), 5000, np.uint16)
    true[:, 20:] = 0
    values, _ = score("depth", [painted(tmp_path, 0, np.full((16, 16), 0.6), depth=png(true))], tmp_path)
    assert values == pytest.approx({"abs_rel": 0.2, "rmse": 1, "rmse_pixels": 1}, abs=1e-3)


def test_normals_where_they_are_known(tmp_path):
    true = np.full((20, 40, 3), (128, 128, 255), np.uint8)
    true[:, :30] = 128
    canvas = np.zeros((16, 16, 3))
    canvas[...] = np.array([128, 128, 255]) / 255
    canvas[:, :12] = 0
    values, _ = score("normals", [painted(tmp_path, 0, canvas, normals=png(true))], tmp_path)
    assert values["within_11"] == 1
    assert values["mean_angle"] == pytest.approx(0, abs=1e-4)


def test_rows_without_their_truth_or_picture_are_named(tmp_path):
    with pytest.raises(PredictionsError, match=r"example 'e0': truth has no 'boxes'"):
        score("localization", [row(0, "")])
    good = painted(tmp_path, 0, np.zeros((16, 16)), depth={"base64": "AAAA"})
    with pytest.raises(PredictionsError, match=r"truth 'depth' is no picture"):
        score("depth", [good], tmp_path)
    with pytest.raises(PredictionsError, match="media is null"):
        score("depth", [dataclasses.replace(good, media=None)], tmp_path)
    with pytest.raises(PredictionsError, match=r"9\.png is no readable picture"):
        score("depth", [dataclasses.replace(good, media="p/9.png", truth={**good.truth, "depth": png(
            np.ones((20, 40), np.uint16))})], tmp_path)  # fmt: skip
