"""The metrics against figures from the original code and from published scorers; skipped where those are missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from uio2.tasks.metrics import boxes, captions, grit
from uio2.tasks.metrics.exact_match import exact_match
from uio2.tasks.metrics.normals import NormalMap, normal_angles, normal_results
from uio2.tasks.metrics.vqa import normalise_answer, vqa_accuracy, vqa_score

SHARED = Path(__file__).resolve().parents[3] / "shared"


def load(relative: str):
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{relative} of the reference data is not beside the repository")
    return json.loads(path.read_text())


def test_referring_expressions_score_as_the_original():
    case = load("golden/metrics.json")["ref_exp"]
    info = case["image_info"]
    size = np.array([info[3], info[4], info[3], info[4]])
    for text, box, expected in zip(case["preds"], case["src_boxes"], case["per_example"], strict=True):
        found = boxes.first_box(text, image_info=info, input_size=(384, 384))
        scores = boxes.refexp_scores(found, true=np.array(box[0]) * size)
        assert scores["acc"] == expected["acc"]
        assert scores["iou"] == pytest.approx(expected["iou"], abs=1e-6)


def test_boxes_overlap_as_in_the_original():
    for pair in load("golden/metrics.json")["box_iou"]:
        assert boxes.box_iou(pair["a"], pair["b"]) == pytest.approx(pair["iou"], abs=1e-9)


def test_vqa_scores_as_the_original():
    golden = load("golden/metrics.json")
    for raw, expected in golden["vqa_preprocess"].items():
        assert normalise_answer(raw) == expected
    for case in golden["vqa_score"]:
        assert vqa_score(case["pred"], targets=case["target"]) == pytest.approx(case["score"]), case
    case = golden["vqa_metric"]
    scores = [vqa_score(p, targets=t) for p, t in zip(case["preds"], case["targets"], strict=True)]
    assert np.mean(scores) == pytest.approx(case["score"])


@pytest.mark.parametrize("name", ["exact_match_multi", "exact_match_single"])
def test_exact_match_scores_as_the_original(name):
    case = load("golden/metrics.json")[name]
    scores = [exact_match(p, targets=t) for p, t in zip(case["preds"], case["targets"], strict=True)]
    assert np.mean(scores) == pytest.approx(case["out"]["score"])


def test_vqa_accuracy_of_the_official_scorer():
    expected = load("data/metric_cases/vqa_accuracy/expected.json")
    annotations = load("data/metric_cases/vqa_accuracy/annotations.json")["annotations"]
    targets = {a["question_id"]: [x["answer"] for x in a["answers"]] for a in annotations}
    scores = []
    for row in load("data/metric_cases/vqa_accuracy/results.json"):
        question = row["question_id"]
        scores.append(100 * vqa_accuracy(row["answer"], targets=targets[question]))
        assert scores[-1] == pytest.approx(expected["per_question"][str(question)], abs=0.01), question
    assert round(float(np.mean(scores)), 2) == expected["accuracy"]["overall"]


def test_localization_and_keypoints_score_as_the_original():
    golden = load("golden/metrics.json")
    for case in golden["localization"]:
        assert grit.localization_score(case["pred"], true=case["gt"]) == pytest.approx(case["score"], abs=1e-9)
    for number, case in enumerate(golden["keypoint"]):
        result = grit.keypoint_results({number: case["pred"]}, references={number: case["gt"]})["keypoint"]
        assert result.value == pytest.approx(case["score"], abs=1e-9)


def blob(seed: int) -> np.ndarray:
    """The mask the golden file's rule describes."""
    r = np.random.default_rng(seed)
    mask = np.zeros((60, 80), bool)
    y, x = r.integers(0, 40), r.integers(0, 60)
    mask[y : y + r.integers(10, 40), x : x + r.integers(10, 40)] = True
    return mask


def test_segmentation_scores_as_the_original():
    metrics = load("golden/metrics.json")
    assert grit.mask_iou(blob(1), blob(2)) == pytest.approx(metrics["mask_iou"], abs=1e-12)
    golden = metrics["segmentation"]
    for seed, pixels in golden["blob_sums"].items():
        assert blob(int(seed)).sum() == pixels
    assert grit.boundary(blob(1)).sum() == golden["boundary_sum_blob1"]
    for case in golden["cases"]:
        predicted, true = ([blob(seed) for seed in case[side]] for side in ("pred", "gt"))
        score = grit.segmentation_score(predicted, true=true, stuff=case["stuff"])
        assert score == pytest.approx(case["score"], abs=1e-9), case


def test_normals_score_as_the_original():
    golden = load("golden/metrics.json")["normal"]
    r = np.random.default_rng(11)
    rgb = r.integers(0, 256, (12, 10, 3))
    predicted = np.clip(rgb + r.integers(-60, 60, rgb.shape), 0, 255)
    truth = NormalMap(rgb, r.random((12, 10)) > 0.3)
    mean, median, *shares = golden["evaluate_normal(mean,median,<11.25,<22.5,<30)"]
    angles = normal_angles(predicted, true=truth)
    assert (angles.mean(), np.median(angles)) == pytest.approx((mean, median), abs=1e-9)
    results = normal_results({1: predicted}, references={1: truth})
    for name, share in zip(("within_11", "within_22", "within_30"), shares, strict=True):
        assert 100 * results[name].value == pytest.approx(share, abs=1e-9)
    assert results["within_11"].value == pytest.approx(golden["score_no_rotate"], abs=1e-12)
    rotated = normal_results({1: predicted}, references={1: truth}, rotate=True)["within_11"]
    assert rotated.value == pytest.approx(golden["score_rotate_optimal"], abs=1e-12)


def test_grit_cases_of_text_boxes_and_keypoints():
    scored = set()
    for case in load("data/metric_cases/grit/expected.json")["cases"]:
        predicted, true, task = case["prediction"], case["ground_truth"], case["task"]
        if task == "vqa":
            score = vqa_score(predicted, targets=true)
        elif task == "refexp":
            score = boxes.refexp_scores(predicted[0] if predicted else None, true=true[0])["acc"]
        elif task == "categorization":
            score = exact_match(predicted, targets=true)
        elif task == "localization":
            score = grit.localization_score(predicted, true=true)
        elif task == "keypoint":
            score = grit.keypoint_results({0: predicted}, references={0: true})["keypoint"].value
        else:
            continue
        scored.add(task)
        assert score == pytest.approx(case["score"], abs=1e-9), case["name"]
    assert scored == {"vqa", "refexp", "categorization", "localization", "keypoint"}


def test_grit_cases_of_masks():
    codec = pytest.importorskip("pycocotools.mask")
    cases = [c for c in load("data/metric_cases/grit/expected.json")["cases"] if c["task"] == "segmentation"]
    for case in cases:
        predicted, true = ([codec.decode(m).astype(bool) for m in case[s]] for s in ("prediction", "ground_truth"))
        score = grit.segmentation_mask_score(predicted, true=true, stuff=case["stuff"])
        assert score == pytest.approx(case["score"], abs=1e-9), case["name"]


def corpus(candidates, references):
    """All caption figures of a set, by the names the COCO evaluation prints."""
    index = captions.CiderIndex(references)
    sums = sum(captions.bleu_counts(c, references=r) for c, r in zip(candidates, references, strict=True))[None]
    pairs = list(zip(candidates, references, strict=True))
    return {f"Bleu_{n}": float(captions.bleu(sums, order=n)[0]) for n in (1, 2, 3, 4)} | {
        "ROUGE_L": float(np.mean([captions.rouge_l(c, references=r) for c, r in pairs])),
        "CIDEr": float(np.mean([index.score(c, references=r) for c, r in pairs])),
    }


def test_published_caption_example():
    for case in load("data/metric_cases/nlg_eval/expected.json")["cases"]:
        references = [[r.split() for r in group] for group in case["references"]]
        got = corpus([c.split() for c in case["candidates"]], references)
        for name, value in got.items():
            assert value == pytest.approx(case["recomputed_with_pycocoevalcap"][name], abs=1e-9), (case["name"], name)


def test_coco_captions_from_raw_text():
    folder = "data/metric_cases/coco_caption_fakecap/"
    expected = load(folder + "expected.json")["subset"]["corpus"]
    results = load(folder + "fakecap_results_subset.json")
    references: dict[int, list[list[str]]] = {}
    for row in load(folder + "captions_refs_subset.json")["annotations"]:
        references.setdefault(row["image_id"], []).append(captions.tokenise(row["caption"]))
    got = corpus([captions.tokenise(r["caption"]) for r in results], [references[r["image_id"]] for r in results])
    for name, value in got.items():
        assert value == pytest.approx(expected[name], abs=1e-9), name


def test_captions_image_by_image():
    folder = "data/metric_cases/coco_caption_fakecap/"
    expected = load(folder + "expected.json")["subset"]
    references: dict[int, list[str]] = {}
    for row in load(folder + "captions_refs_subset.json")["annotations"]:
        references.setdefault(row["image_id"], []).append(row["caption"])
    predictions = {row["image_id"]: row["caption"] for row in load(folder + "fakecap_results_subset.json")}
    results = captions.caption_results(predictions, references=references)
    for figure, name in (("rouge_l", "ROUGE_L"), ("cider", "CIDEr")):
        for image, score in zip(results[figure].ids, results[figure].scores, strict=True):
            assert score == pytest.approx(expected["per_image"][str(image)][name], abs=1e-6), (figure, image)
    for figure, name in (("bleu_1", "Bleu_1"), ("bleu_4", "Bleu_4"), ("rouge_l", "ROUGE_L"), ("cider", "CIDEr")):
        interval = results[figure].interval
        assert interval.value == pytest.approx(expected["corpus"][name], abs=1e-9)
        assert interval.low < interval.value < interval.high


@pytest.mark.parametrize("case", range(4))
def test_published_bleu_of_another_package(case):
    case = load("data/metric_cases/sacrebleu/expected.json")["cases"][case]
    tokenisation = case["kwargs"].get("tokenize", "13a")
    # What the package's named tokenisations do to these three sentences.
    apart = {"none": r"(?!x)x", "13a": r"\.", "intl": r"[.']"}[tokenisation]
    words = lambda text: re.sub(f"({apart})", r" \1 ", text).split()  # noqa: E731
    rows = [
        captions.bleu_counts(words(hypothesis), references=[words(r) for r in references])
        for hypothesis, references in zip(case["hypotheses"], zip(*case["reference_streams"], strict=True), strict=True)
    ]
    assert 100 * captions.bleu(sum(rows)[None])[0] == pytest.approx(case["recomputed"], abs=1e-6)


def test_summaries_by_longest_common_subsequence():
    folder = SHARED / "data/metric_cases/t5_rouge"
    expected = load("data/metric_cases/t5_rouge/expected.json")["recomputed_with_rouge_score"]["rougeL"]
    predicted, true = (
        [re.findall("[a-z0-9]+", line.lower()) for line in (folder / name).read_text().splitlines()]
        for name in ("prediction_large.txt", "target_large.txt")
    )
    scores = [captions.rouge_l(p, references=[t], beta=1) for p, t in zip(predicted, true, strict=True)]
    assert 100 * np.mean(scores) == pytest.approx(expected, abs=1e-6)
