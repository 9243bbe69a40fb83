"""COCO average precision: published figures, hand-made cases, and intervals that equal evaluating every resample."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from uio2.tasks.metrics.bootstrap import bootstrap_counts
from uio2.tasks.metrics.coco_ap import Detection, Shape, Truth, coco_results
from uio2.tasks.metrics.result import MetricError, Resampling

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "metric_cases"
FEW = Resampling(resamples=100)


def load(relative: str):
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{relative} of the reference data is not beside the repository")
    return json.loads(path.read_text())


def corners(box):
    left, top, width, height = box
    return [top, left, top + height, left + width]


def case_of(dataset, results):
    """Predictions and references by image id, in the order of the ids as the COCO tools take them."""
    ids = sorted(image["id"] for image in dataset["images"])
    references: dict[int, list[Truth]] = {i: [] for i in ids}
    for a in dataset["annotations"]:
        references[a["image_id"]].append(
            Truth(
                category=a["category_id"],
                box=corners(a["bbox"]),
                area=a["area"],
                crowd=bool(a["iscrowd"]),
                keypoints=np.reshape(a["keypoints"], (17, 3)) if "keypoints" in a else None,
            )
        )
    predictions: dict[int, list[Detection]] = {i: [] for i in ids}
    for r in results:
        predictions[r["image_id"]].append(
            Detection(
                category=r["category_id"],
                score=r["score"],
                box=corners(r["bbox"]),
                keypoints=np.reshape(r["keypoints"], (17, 3)) if "keypoints" in r else None,
            )
        )
    return predictions, references


def our_names(figures):
    return {name.lower(): value for name, value in figures.items()}


@pytest.fixture(scope="module")
def published_boxes():
    folder = "coco_ap_val2014_100/"
    dataset = load(folder + "instances_val2014_100.json")
    return case_of(dataset, load(folder + "instances_val2014_fakebbox100_results.json"))


def test_published_box_figures(published_boxes):
    expected = load("coco_ap_val2014_100/expected.json")["bbox"]
    predictions, references = published_boxes
    results = coco_results(predictions, references=references, shape=Shape.BOX, resampling=FEW)
    for name, value in our_names(expected["published_3_decimals"]).items():
        assert results[name].value == pytest.approx(value, abs=0.0005), name
    for name, value in our_names(expected["recomputed_with_pycocotools"]).items():
        assert results[name].value == pytest.approx(value, abs=1e-12), name
        assert results[name].interval.low < value < results[name].interval.high, name


def test_published_keypoint_figures():
    expected = load("coco_kp_fce/expected.json")["published"]
    dataset, found = load("coco_kp_fce/gt_dataset.json"), load("coco_kp_fce/dt_dataset.json")
    predictions, references = case_of(dataset, found)
    results = coco_results(predictions, references=references, shape=Shape.KEYPOINTS)
    for name, value in our_names(expected).items():
        assert results[name].value == pytest.approx(value, abs=1e-12), name


def test_intervals_equal_evaluating_every_resample(published_boxes):
    """Twelve images, some drawn several times, go through the package again as images of their own."""
    predictions, references = published_boxes
    ids = [i for i in references if references[i]][:12]
    some, true = {i: predictions[i] for i in ids}, {i: references[i] for i in ids}
    few = Resampling(resamples=12)
    results = coco_results(some, references=true, shape=Shape.BOX, resampling=few)
    figures = ["ap", "ap50", "ap75", "ar1", "ar10", "ar100"]

    def slowly(counts):
        rows = []
        for row in counts.astype(int):
            taken = [(f"{n}/{i}", i) for n, i in zip(range(99), np.repeat(ids, row), strict=False)]
            again = coco_results(
                {key: some[i] for key, i in taken},
                references={key: true[i] for key, i in taken},
                shape=Shape.BOX,
                resampling=Resampling(resamples=1),
            )
            rows.append([again[f].value for f in figures])
        return np.array(rows)

    for figure, interval in zip(
        figures, bootstrap_counts(12, statistic=slowly, name="coco_box", resamples=12), strict=True
    ):
        own = results[figure].interval
        assert (own.low, own.high) == pytest.approx((interval.low, interval.high), abs=1e-9), figure


def test_a_right_and_a_wrong_box():
    truth = {"a": [Truth(category="cat", box=[0, 0, 50, 50])], "b": [Truth(category="cat", box=[0, 0, 50, 50])]}
    predictions = {
        "a": [Detection(category="cat", score=0.9, box=[60, 60, 110, 110])],
        "b": [Detection(category="cat", score=0.8, box=[0, 0, 50, 50])],
    }
    results = coco_results(predictions, references=truth, shape=Shape.BOX, resampling=FEW)
    # Recall 0.5 is reached at precision 0.5: 51 of the 101 points are 0.5, the others 0.
    assert results["ap"].value == pytest.approx(51 * 0.5 / 101)
    assert results["ar100"].value == pytest.approx(0.5)
    assert results["ap_medium"].value == pytest.approx(51 * 0.5 / 101)
    assert "ap_small" not in results


def test_masks_by_hand():
    mask = np.zeros((40, 40), bool)
    mask[:20, :20] = True
    half = mask & (np.arange(40) < 12)  # IoU 0.6: right at the thresholds 0.5, 0.55 and 0.6
    truth = {1: [Truth(category="cat", mask=mask)]}
    found = {1: [Detection(category="cat", score=1.0, mask=half)]}
    results = coco_results(found, references=truth, shape=Shape.MASK, resampling=FEW)
    assert results["ap50"].value == pytest.approx(1)
    assert results["ap75"].value == 0
    assert results["ap"].value == pytest.approx(0.3)


def test_no_detections_score_zero():
    truth = {1: [Truth(category="cat", box=[0, 0, 50, 50])], 2: []}
    results = coco_results({1: [], 2: []}, references=truth, shape=Shape.BOX, resampling=FEW)
    assert (results["ap"].value, results["ap"].interval.high) == (0, 0)


def test_an_inverted_detection_is_a_false_positive():
    truth = {1: [Truth(category="cat", box=[0, 0, 50, 50])]}
    boxes = [Detection(category="cat", score=0.9, box=[50, 50, 0, 0])]
    boxes.append(Detection(category="cat", score=0.8, box=[0, 0, 50, 50]))
    assert coco_results({1: boxes}, references=truth, shape=Shape.BOX, resampling=FEW)["ap"].value == pytest.approx(0.5)


def test_bad_objects_are_refused():
    truth = {"x": [Truth(category="cat", box=[0, 0, 5, 5], mask=np.ones((4, 4), bool))]}
    box = Detection(category="cat", score=1.0, box=[0, 0, 5, 5])
    with pytest.raises(MetricError, match="'x': a detection's score is nan"):
        coco_results(
            {"x": [Detection(category="cat", score=np.nan, box=[0, 0, 5, 5])]}, references=truth, shape=Shape.BOX
        )
    with pytest.raises(MetricError, match="'x': a predicted object has no mask"):
        coco_results({"x": [box]}, references=truth, shape=Shape.MASK)
    small = Detection(category="cat", score=1.0, mask=np.ones((2, 2), bool))
    with pytest.raises(MetricError, match="'x': masks have sizes"):
        coco_results({"x": [small]}, references=truth, shape=Shape.MASK)
    with pytest.raises(MetricError, match="0 keypoint numbers, expected 51"):
        coco_results({"x": [box]}, references=truth, shape=Shape.KEYPOINTS)
    with pytest.raises(MetricError, match=r"reference box .* no area"):
        coco_results({"x": []}, references={"x": [Truth(category="cat", box=[3, 3, 3, 3])]}, shape=Shape.BOX)
    with pytest.raises(ValueError, match="no object that counts"):
        coco_results({"x": []}, references={"x": []}, shape=Shape.BOX)
