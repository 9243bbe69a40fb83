"""What the metrics promise on small cases anyone can check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from uio2.tasks.metrics import boxes, captions
from uio2.tasks.metrics.bootstrap import bootstrap, bootstrap_mean
from uio2.tasks.metrics.exact_match import exact_match
from uio2.tasks.metrics.vqa import normalise_answer, vqa_accuracy, vqa_score

# A 200x100 (height x width) image fitted into 100x100: scale 0.5, 25 pixels of padding left and right.
INFO = [0, 25, 2.0, 200, 100, 0, 0, 0, 0, 100, 50]


def test_first_box_is_in_source_pixels():
    text = "<extra_id_200> <extra_id_450> <extra_id_700> <extra_id_700> <extra_id_200>"
    np.testing.assert_allclose(boxes.first_box(text, image_info=INFO, input_size=(100, 100)), [0, 0, 100, 50])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "two",
        "<extra_id_300> <extra_id_300> <extra_id_400>",
        "<extra_id_300> <extra_id_300> a <extra_id_400> <extra_id_400>",
        "<extra_id_1> <extra_id_2> <extra_id_3> <extra_id_4>",
    ],
)
def test_text_without_a_box_scores_zero(text):
    found = boxes.first_box(text, image_info=INFO, input_size=(100, 100))
    assert found is None
    assert boxes.refexp_scores(found, true=[0, 0, 10, 10]) == {"acc": 0.0, "iou": 0.0}


def test_broken_run_is_dropped_and_the_next_box_found():
    text = "<extra_id_300> cat <extra_id_200><extra_id_450><extra_id_700><extra_id_700>"
    np.testing.assert_allclose(boxes.first_box(text, image_info=INFO, input_size=(100, 100)), [0, 0, 100, 50])


def test_a_box_half_covered_is_not_yet_right():
    assert boxes.refexp_scores([0, 0, 10, 5], true=[0, 0, 10, 10])["acc"] == 0.0
    assert boxes.refexp_scores([0, 0, 10, 5.1], true=[0, 0, 10, 10])["acc"] == 1.0


def test_a_cropped_image_is_refused():
    text = "<extra_id_200> <extra_id_450> <extra_id_700> <extra_id_700>"
    with pytest.raises(ValueError, match="crop"):
        boxes.first_box(text, image_info=[0, 0, 1, 10, 10, 0.1, 0, 1, 0, 10, 10], input_size=(8, 8))
    with pytest.raises(ValueError, match="11"):
        boxes.first_box(text, image_info=[0, 0, 1], input_size=(8, 8))


def test_exact_match_forgives_case_only():
    assert exact_match("YES", targets="yes") == 1
    assert exact_match("yes ", targets="yes") == 0
    assert exact_match("b", targets=["a", "B"]) == 1
    assert exact_match("", targets=[]) == 0


def test_vqa_quirks():
    assert normalise_answer("The  Two Dogs.") == "2 dogs"
    assert normalise_answer("couldnt've") == normalise_answer("couldn'tve") == "couldn't've"
    assert normalise_answer("Y'alld've, 3.5%") == "y'all'd've 3.5%"
    assert vqa_score("two", targets=["2", "2", "3"]) == pytest.approx(2 / 3)
    assert vqa_accuracy("two", targets=["2"] + ["3"] * 9) == pytest.approx(0.3)
    assert vqa_accuracy("3", targets=["2"] + ["3"] * 9) == 1
    with pytest.raises(ValueError, match="annotator"):
        vqa_accuracy("two", targets=[])


def test_interval_depends_on_the_scores_alone():
    scores = np.array([1.0] * 70 + [0.0] * 30)
    first = bootstrap_mean(scores, name="a")
    assert first == bootstrap_mean(scores[::-1], name="a")
    assert first.value == 0.7
    # A proportion of 0.7 over 100 has a standard error of 0.046.
    assert first.low == pytest.approx(0.61, abs=0.02)
    assert first.high == pytest.approx(0.79, abs=0.02)


def test_interval_of_a_perfect_score_is_a_point():
    interval = bootstrap_mean(np.ones(20), name="a")
    assert (interval.low, interval.value, interval.high) == (1, 1, 1)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    inside = 0
    for trial in range(200):
        interval = bootstrap_mean(rng.random(60) < 0.4, name=f"trial {trial}", resamples=300)
        inside += interval.low <= 0.4 <= interval.high
    assert 0.88 <= inside / 200 <= 0.99


def test_intervals_refuse_an_empty_set():
    with pytest.raises(ValueError, match="no examples"):
        bootstrap_mean(np.zeros(0), name="vqa/score")
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean(np.ones(3), name="a", confidence=95)


def test_captions_reward_the_reference_and_punish_the_other():
    references = [[["a", "red", "seven"]], [["a", "blue", "two", "and", "a", "green", "nine"]]]
    index = captions.CiderIndex(references)
    right = [index.score(r[0], references=r) for r in references]
    assert right[1] == pytest.approx(10.0)
    assert index.score(["a", "red", "seven"], references=references[1]) < 1
    assert captions.rouge_l(["a", "red", "seven"], references=references[0]) == 1
    assert captions.rouge_l([], references=references[0]) == 0
    perfect = sum(captions.bleu_counts(r[0], references=r) for r in references)
    assert captions.bleu(perfect[None], order=4)[0] == pytest.approx(1.0)


def test_corpus_bleu_has_an_interval():
    reference = ["a", "small", "red", "seven", "left", "of", "a", "blue", "two"]
    rows = [captions.bleu_counts(reference[:n] + ["x"] * (9 - n), references=[reference]) for n in range(3, 10)]
    interval = bootstrap(np.stack(rows), statistic=captions.bleu, name="caption/bleu_4", resamples=200)
    assert interval.low < interval.value < interval.high


def test_words_of_a_caption():
    assert captions.tokenise("A man's well-known dog, isn't it? \u201cYes\u201d!") == [
        "a",
        "man",
        "'s",
        "well-known",
        "dog",
        "is",
        "n't",
        "it",
        "yes",
    ]
