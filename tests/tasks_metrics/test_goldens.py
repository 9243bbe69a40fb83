"""The metrics against figures from the original code and from published scorers; skipped where those are missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from uio2.tasks.metrics import boxes, captions
from uio2.tasks.metrics.exact_match import exact_match
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


def test_grit_vqa_and_refexp_cases():
    for case in load("data/metric_cases/grit/expected.json")["cases"]:
        if case["task"] == "vqa":
            assert vqa_score(case["prediction"], targets=case["ground_truth"]) == pytest.approx(case["score"]), case
        elif case["task"] == "refexp":
            predicted = case["prediction"][0] if case["prediction"] else None
            assert boxes.refexp_scores(predicted, true=case["ground_truth"][0])["acc"] == case["score"], case


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
