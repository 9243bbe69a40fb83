"""The score stage on predictions whose right and wrong answers are known."""

from __future__ import annotations

import dataclasses
import json

import pytest

from uio2.evaluate import score, score_parts
from uio2.evaluate.families import FAMILIES, family_of, key_prefixes
from uio2.evaluate.predictions import PredictionsError, TaskPredictions, read_task
from uio2.evaluate.specs import ScoreSpec
from uio2.evaluate.summary import read_metrics, read_rows
from uio2.pipeline.artifact import digest_directory
from uio2.pipeline.stage import StageError
from uio2.tasks.families import all_tasks
from uio2.tasks.metrics.result import Resampling

from . import tiny


def test_every_metric_stands_beside_its_baseline(world, scored):
    rows = {row.key: row for row in read_rows(scored["score"].path)}
    assert set(rows) == {
        "vqa/exact_match", "vqa/score", "box_classification/exact_match", "refexp/acc", "refexp/iou",
        "caption/exact_match", "caption/cider", "caption/rouge_l", "caption/bleu_4",
    }  # fmt: skip
    for row in rows.values():
        assert row.n == len(world.validation)
        assert row.low <= row.value <= row.high, row
        assert row.above_baseline, row


def test_figures_are_those_of_the_predictions(world, scored):
    rows = {row.key: row for row in read_rows(scored["score"].path)}
    found = tiny.rows_of("vqa_coco_2017", found=world.validation, skill=0.8)
    right = sum(row.text == row.targets[0] for row in found)
    assert rows["vqa/exact_match"].value == pytest.approx(right / len(found), abs=1e-6)


def test_baselines_come_from_the_training_split(scored):
    tasks = read_metrics(scored["score"].path)["tasks"]
    train = tiny.scenes(number=12, seed=1, validation=False)
    counts = [str(len(s.objects)) for s in train]
    assert tasks["vqa_coco_2017"]["baseline_answer"] == min(set(counts), key=lambda c: (-counts.count(c), c))
    objects = [o for s in train for o in s.objects]
    digits = [str(o.digit) for o in objects]
    best = min(set(digits), key=lambda d: (-digits.count(d), d))
    assert tasks["box_classification_coco_2017"]["baseline_answer"] == best
    top = sum(o.top for o in objects) / len(objects) / 96
    assert tasks["refcoco_unc"]["baseline_answer"][0] == pytest.approx(top, abs=1e-5)
    said = [c for s in train for c in tiny.captions(s)]
    assert tasks["image_caption_coco_2017"]["baseline_answer"] in said


def test_equal_predictions_give_equal_bytes(world, scored, tmp_path):
    context = tiny.context(tmp_path / "again", **world.inputs)
    score.run(ScoreSpec(resamples=200), context)
    assert digest_directory(context.out) == scored["score"].digest


def test_unusable_answers_are_counted(world, tmp_path):
    rows = {task: tiny.rows_of(task, found=world.validation, skill=1.0) for task in tiny.TASKS}
    rows["refcoco_unc"][0] = dataclasses.replace(rows["refcoco_unc"][0], text="<extra_id_300> nothing")
    rows["vqa_coco_2017"][0] = dataclasses.replace(rows["vqa_coco_2017"][0], text=" ")
    boxes = "box_classification_coco_2017"
    rows[boxes][0] = dataclasses.replace(rows[boxes][0], text="eleven")
    predictions = tiny.write_predictions(tmp_path / "p", rows=rows)
    context = tiny.context(tmp_path / "s", **world.inputs | {"predictions": predictions})
    stats = score.run(ScoreSpec(resamples=20), context)
    assert stats["unparsable"] == {boxes: 1, "refcoco_unc": 1, "vqa_coco_2017": 1, "image_caption_coco_2017": 0}
    assert stats["metrics"]["refexp/acc"]["value"] == pytest.approx(15 / 16, abs=1e-6)
    lines = [json.loads(line) for line in (context.out / "per_example.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 16
    assert next(line["answer"] for line in lines if line["task"] == "refcoco_unc") is None


def test_only_the_datasets_a_task_needs_are_asked_for(world, tmp_path):
    rows = {"vqa_coco_2017": tiny.rows_of("vqa_coco_2017", found=world.validation, skill=1.0)}
    predictions = tiny.write_predictions(tmp_path / "p", rows=rows)
    context = tiny.context(tmp_path / "s", predictions=predictions, coco=world.inputs["coco"])
    assert score.run(ScoreSpec(resamples=20), context)["metrics"]["vqa/exact_match"]["value"] == 1.0
    rows = {"refcoco_unc": tiny.rows_of("refcoco_unc", found=world.validation, skill=1.0)}
    predictions = tiny.write_predictions(tmp_path / "p2", rows=rows)
    context = tiny.context(tmp_path / "s2", predictions=predictions, coco=world.inputs["coco"])
    with pytest.raises(StageError, match="refcoco"):
        score.run(ScoreSpec(resamples=20), context)


def test_a_split_that_is_not_there_has_no_baseline(world, tmp_path):
    context = tiny.context(tmp_path / "s", **world.inputs)
    stats = score.run(ScoreSpec(resamples=20, baseline_split="nowhere"), context)
    assert {figure["baseline"] for figure in stats["metrics"].values()} == {None}
    lines = [json.loads(line) for line in (context.out / "per_example.jsonl").read_text().splitlines()]
    assert all(line["baseline"] == {} for line in lines)


def test_pictures_without_a_figure_stand_beside_what_is_scored(world, tmp_path):
    rows = tiny.rows_of("vqa_coco_2017", found=world.validation, skill=1.0)
    found = TaskPredictions(
        read_task(world.inputs["predictions"].path, task="vqa_coco_2017").header, tuple(rows), tmp_path
    )
    drawn = [dataclasses.replace(row, text="", media=f"p/{row.index}.png") for row in rows]
    family = FAMILIES["image"]
    answers = family.read(dataclasses.replace(found, rows=tuple(drawn)))
    assert answers[3] == "p/3.png"
    assert score_parts.unparsable(family, answers=answers) == 0
    assert family.score(drawn, answers, Resampling()).results == {}


def test_vqa_counts_annotators_when_there_are_several(world):
    row = tiny.rows_of("vqa_coco_2017", found=world.validation[:1], skill=1.0)[0]
    row = dataclasses.replace(row, targets=("red", "red", *["dark red"] * 8))
    scores = family_of(row.task).score([row], ["Red"], Resampling(resamples=20))
    assert scores.per_example["exact_match"][0] == 1
    assert scores.per_example["score"][0] == pytest.approx(2 / 3)


def test_rows_without_what_they_are_scored_against_are_named(world):
    row = tiny.rows_of("refcoco_unc", found=world.validation[:1], skill=1.0)[0]
    with pytest.raises(PredictionsError, match="true_box"):
        family_of(row.task).score([dataclasses.replace(row, true_box=None)], [None], Resampling())


def test_two_tasks_of_one_family_keep_apart():
    prefixes = key_prefixes(["refcoco_unc", "refcocog_google", "vqa_coco_2017"])
    assert prefixes == {"refcoco_unc": "refexp", "refcocog_google": "refcocog_google", "vqa_coco_2017": "vqa"}
    with pytest.raises(StageError, match="no task 'vqa'"):
        family_of("vqa")


@pytest.mark.parametrize("task", all_tasks())
def test_every_task_names_a_way_of_scoring(task):
    assert family_of(task) is FAMILIES[all_tasks()[task].score]
