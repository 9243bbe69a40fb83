"""Questions with options and tags; and every picture task from its stored dataset to the batch."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.stage1 import count, example, record
from tests.tiny import pictures
from uio2.tasks.eval_feed import eval_examples
from uio2.tasks.families import find_task
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import make_mixture

OPTIONS, TAGGING = find_task("vqa_options"), find_task("image_tagging")
MADE = {"regions": pictures.regions, "image_text": pictures.image_text, "vqa_options": pictures.vqa_options,
        "depth": pictures.depth, "normals": pictures.normals}  # fmt: skip
PICTURES = (
    "depth_estimation", "image_caption", "image_generation", "image_generation_coco_2017", "image_inpainting_coco",
    "image_tagging", "keypoints_coco_2017", "localization_coco_2017", "object_detection_coco_2017",
    "region_captioning", "segmentation_coco_2017", "surface_normals", "vqa_options",
)  # fmt: skip
# Half of them paint; one each of an example with a loss mask, without an image input, with several lists.
MIXED = (
    "depth_estimation", "image_generation", "image_inpainting_coco", "object_detection_coco_2017", "region_captioning",
    "vqa_options",
)  # fmt: skip


def questions(rows):
    """`questions` of a record: (question, options, answer)."""
    asked, options, answers = zip(*rows, strict=True)
    return {
        "id": tf.range(len(rows), dtype=tf.int64),
        "question": tf.constant(asked),
        "options": tf.ragged.constant(options, dtype=tf.string),
        "answer": tf.constant(answers, tf.int64),
    }


def test_options_are_shuffled_in_training_and_to_choose_from_in_evaluation():
    several = record(questions=questions([("What is it?", ["a", "b c", " ", "d"], 1)]))
    found = example(OPTIONS, several)
    assert "What is it?" in found["text_inputs"]
    assert "a, b c, d" in found["text_inputs"]
    assert found["text_targets"] == "b c"
    assert found["text_choices"] == found["meta/truth/options"] == ["a", "b c", "d"]
    prompts = set()
    for draw in np.linspace(0, 0.99, 12):
        trained = example(OPTIONS, several, training=True, draws=(0, 0, draw, 0, 0, 0, 0, 0))
        assert trained["text_targets"] == "b c"
        assert "text_choices" not in trained
        prompts.add(trained["text_inputs"])
    assert 2 < len(prompts) <= 6


@pytest.mark.parametrize(
    "row",
    [("?", [], 0), ("?", ["a"], 1), ("?", ["a"], -1), ("?", ["a", " "], 1), (" ", ["a"], 0)],
    ids=["no options", "beyond", "below", "empty answer", "no question"],
)
def test_questions_without_a_right_option_are_passed_over(row):
    good = ("What?", ["a", "b"], 0)
    assert count(OPTIONS, record(questions=questions([row]))) == 0
    around = record(questions=questions([row, good, row]))
    assert count(OPTIONS, around) == 1
    assert example(OPTIONS, around)["text_targets"] == "a"


def test_any_label_is_a_tag():
    tagged = record(labels=tf.constant(["", "Dog", "ANIMAL \n farm"]))
    found = example(TAGGING, tagged)
    assert found["text_targets"] == "dog"
    assert found["meta/all_targets"] == ["dog", "animal farm"]
    asked = {example(TAGGING, tagged, training=True, draws=(d, *[0] * 7))["text_targets"] for d in (0.1, 0.9)}
    assert asked == {"dog", "animal farm"}
    assert count(TAGGING, record(labels=tf.constant([" ", ""]))) == 0
    assert count(TAGGING, record(labels=tf.zeros([0], tf.string))) == 0


@pytest.fixture(scope="module")
def everything(datasets, tokenizer, mixture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    stored = {"coco": datasets["coco"], **{name: make(folder) for name, make in MADE.items()}}
    recipe = dataclasses.replace(
        mixture.recipe, rates=dict.fromkeys(PICTURES, 1.0), target_modalities=("text", "image"),
        image_target_size=(64, 64), text_inputs=64, augment=True,
    )  # fmt: skip
    return make_mixture(recipe, datasets=stored, tokenizer=tokenizer)


def test_a_mixture_of_picture_tasks_teaches_in_every_row(everything):
    recipe = dataclasses.replace(everything.recipe, rates=dict.fromkeys(MIXED, 1.0))
    feed = Feed(dataclasses.replace(everything, recipe=recipe), seed=1)
    batches = list(itertools.islice(feed.batches(batch_size=13), 4))
    written = np.concatenate([batch["targets/text/mask"].any(axis=1) for batch in batches])
    painted = np.concatenate([batch["targets/image/loss_mask"].any(axis=1) for batch in batches])
    np.testing.assert_array_equal(written, ~painted)
    assert 4 * 13 * 0.3 < painted.sum() < 4 * 13 * 0.7
    for batch in batches:
        assert batch["targets/image/image"].shape == (13, 64, 64, 3)
        hidden = batch["targets/image/task_mask"].astype(bool)
        assert (batch["targets/image/loss_mask"].astype(bool) >= hidden).all()
        assert not batch["targets/image/image"][~batch["targets/image/mask"].any(axis=1)].any()


@pytest.mark.parametrize("name", PICTURES)
def test_every_evaluation_example_can_be_scored(everything, name):
    rows = [row for batch in eval_examples(everything, task=name, batch_size=8) for row in batch.metadata]
    assert len(rows) >= 4
    assert len({row["example_id"] for row in rows}) == len(rows)
    for row in rows:
        if everything.task(name).makes == "image":
            assert row["truth/target_info"][2] == pytest.approx(1.5)
        else:
            assert row["target"]
            assert row["target"] in row["all_targets"]
