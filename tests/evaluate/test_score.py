"""The score stage on predictions whose right and wrong answers are known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

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


def test_scoring_as_a_beam_job_gives_the_same_bytes(world, scored, tmp_path, monkeypatch):
    context = tiny.context(tmp_path / "beam", **world.inputs)
    monkeypatch.setenv("UIO2_SCORE", "beam")
    score.run(ScoreSpec(resamples=200), context)
    assert digest_directory(context.out) == scored["score"].digest
    rows = tiny.rows_of("refcoco_unc", found=world.validation, skill=1.0)
    broken = tiny.write_predictions(
        tmp_path / "p", rows={"refcoco_unc": [dataclasses.replace(row, true_box=None) for row in rows]}
    )
    with pytest.raises(StageError, match=r"^task 'refcoco_unc', example '\d+-.*': true_box is null"):
        score.run(ScoreSpec(resamples=20), tiny.context(tmp_path / "b", **world.inputs | {"predictions": broken}))


def test_slices_of_a_kind_add_up_to_the_whole(world, scored):
    found = read_metrics(scored["score"].path)
    assert found["slices"].keys() == set(tiny.TASKS)
    for task, kinds in found["slices"].items():
        prefix = found["tasks"][task]["prefix"]
        for entries in kinds.values():
            assert sum(entry["n"] for entry in entries) == len(world.validation)
            for metric in set.intersection(*(set(entry["metrics"]) for entry in entries)) - {"bleu_4"}:
                mean = sum(e["n"] * e["metrics"][metric]["value"] for e in entries) / len(world.validation)
                assert mean == pytest.approx(found["metrics"][f"{prefix}/{metric}"]["value"], abs=1e-5)
    kinds = found["slices"]["vqa_coco_2017"]["question_kind"]
    assert {entry["slice"]: entry["n"] for entry in kinds} == {"how many": 8, "what digit": 8}


def test_figures_and_slices_are_those_asked_for(world, tmp_path):
    context = tiny.context(tmp_path / "s", **world.inputs)
    spec = ScoreSpec(resamples=20, metrics={"caption": ("bleu_1",)}, slices=("question_kind",), max_slices=1)
    score.run(spec, context)
    found = read_metrics(context.out)
    assert [key for key in found["metrics"] if key.startswith("caption/")] == ["caption/bleu_1"]
    assert {task: list(kinds) for task, kinds in found["slices"].items()} == {"vqa_coco_2017": ["question_kind"]}
    assert [entry["slice"] for entry in found["slices"]["vqa_coco_2017"]["question_kind"]] == ["how many", "(other)"]
    with pytest.raises(StageError, match="its way of scoring gives"):
        score.run(ScoreSpec(metrics={"vqa": ("bleu",)}), tiny.context(tmp_path / "s2", **world.inputs))


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_every_version_score_as_they_did(world, tmp_path, version):
    folder = Path(__file__).parent / "fixtures" / f"predictions_v{version}"
    predictions = tiny.artifact(folder, kind="predictions", name="digits/predict")
    context = tiny.context(tmp_path / "s", **world.inputs | {"predictions": predictions})
    score.run(ScoreSpec(resamples=20, baseline_split="nowhere"), context)
    found = {key: row["value"] for key, row in read_metrics(context.out)["metrics"].items()}
    assert found == json.loads((folder.parent / f"expected_v{version}.json").read_text())


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


def test_sounds_without_a_figure_stand_beside_what_is_scored(world, tmp_path):
    rows = tiny.rows_of("vqa_coco_2017", found=world.validation, skill=1.0)
    found = TaskPredictions(
        read_task(world.inputs["predictions"].path, task="vqa_coco_2017").header, tuple(rows), tmp_path
    )
    drawn = [dataclasses.replace(row, text="", media=f"p/{row.index}.npz") for row in rows]
    family = FAMILIES[""]
    answers = family.read(dataclasses.replace(found, rows=tuple(drawn)))
    assert answers[3] == "p/3.npz"
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
