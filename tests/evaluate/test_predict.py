"""The predict stage with a real model, however untrained: every example once, the same files after a kill."""

from __future__ import annotations

import dataclasses
import json

import pytest

from uio2.evaluate import predict, report, score
from uio2.evaluate.predictions import read_all
from uio2.evaluate.specs import PredictSpec, ReportSpec, ScoreSpec
from uio2.pipeline.artifact import digest_directory
from uio2.pipeline.stage import StageError, spec_to_json
from uio2.tasks.specs import RegisterSpec

from . import tiny

SPEC = PredictSpec(batch_size=4, max_length=8, shard_size=8)
RECIPE = RegisterSpec(image_size=(96, 96), image_patch_size=32, text_inputs=48, text_targets=16)


@pytest.fixture(scope="module")
def inputs(world, tmp_path_factory):
    """The datasets of the world under a registered mixture, and a small model with random parameters."""
    from flax import nnx

    from uio2.model import ModelConfig, UnifiedIO2, VitConfig
    from uio2.model.checkpoint import native
    from uio2.tasks.vocabulary import UnifiedVocabulary

    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = tiny.tokenizer(folder / "tokenizer")
    vocabulary = UnifiedVocabulary.from_file(tokenizer.path)
    (folder / "mixture").mkdir()
    values = {"recipe": spec_to_json(RECIPE), "tokenizer": {"sha256": vocabulary.sha256}}
    (folder / "mixture" / "mixture.json").write_text(json.dumps(values))
    config = dataclasses.replace(
        ModelConfig.preset("digits"), emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1,
        num_decoder_layers=1, text_vocab_size=vocabulary.padded_size, encoder_max_text_length=48,
        decoder_max_text_length=16, image_size=(96, 96), image_patch_size=32,
        image_vit=VitConfig(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_layers=1, num_positions=10),
    )  # fmt: skip
    (folder / "train").mkdir()
    native.save(UnifiedIO2(config, rngs=nnx.Rngs(0)), folder / "train" / "model")
    return {
        "coco": world.inputs["coco"],
        "refcoco": world.inputs["refcoco"],
        "tokenizer": tokenizer,
        "mixture": tiny.artifact(folder / "mixture", kind="mixture", name="digits/register"),
        "checkpoint": tiny.artifact(folder / "train", kind="checkpoint", name="digits/train"),
    }


@pytest.fixture(scope="module")
def predicted(inputs, tmp_path_factory):
    context = tiny.context(tmp_path_factory.mktemp("predicted") / "predict", **inputs)
    stats = predict.run(SPEC, context)
    return stats, tiny.artifact(context.out, kind="predictions", name="digits/predict")


def test_every_example_has_one_row(world, inputs, predicted):
    stats, artifact = predicted
    objects = sum(len(scene.objects) for scene in world.validation)
    images = len(world.validation)
    assert stats["examples"] == {
        "image_caption_coco_2017": images,
        "vqa_coco_2017": images,
        "box_classification_coco_2017": objects,
        "refcoco_unc": objects,
    }
    found = {p.header.task: p for p in read_all(artifact.path)}
    assert {task: len(p.rows) for task, p in found.items()} == stats["examples"]
    for p in found.values():
        assert p.header.checkpoint == inputs["checkpoint"].digest
        assert all(row.logprob < 0 and 1 not in row.tokens for row in p.rows)
        assert all(len(row.tokens) <= p.header.decoding["max_length"] for row in p.rows)


def test_rows_carry_what_scoring_and_the_page_need(world, predicted):
    found = {p.header.task: p.rows for p in read_all(predicted[1].path)}
    question = found["vqa_coco_2017"][0]
    assert question.question == "how many digits are there?"
    assert set(question.targets) == {str(len(world.validation[0].objects))}
    expression = found["refcoco_unc"][0]
    first = world.validation[0].objects[0]
    assert expression.question == f"the {first.colour} digit"
    box = (first.top, first.left, first.top + first.size, first.left + first.size)
    assert expression.true_box == pytest.approx(box, abs=0.01)
    assert set(found["image_caption_coco_2017"][0].targets) == set(tiny.captions(world.validation[0]))


def test_a_killed_run_goes_on_and_ends_with_the_same_files(inputs, predicted, tmp_path):
    class Killed(Exception):
        pass

    def stop_in_the_middle(done, total, text):
        if done > total // 2:
            raise Killed

    context = tiny.context(tmp_path / "p", **inputs)
    with pytest.raises(Killed):
        predict.run(SPEC, dataclasses.replace(context, progress=stop_in_the_middle))
    kept = {path: path.stat().st_mtime_ns for path in context.work.rglob("*.jsonl")}
    assert kept
    assert not list(context.out.iterdir())
    damaged = min(kept)
    damaged.write_text(damaged.read_text()[:100])
    predict.run(SPEC, context)
    assert digest_directory(context.out) == predicted[1].digest
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items() if path.parent != damaged.parent)


def test_a_limit_takes_the_first_examples(inputs, predicted, tmp_path):
    context = tiny.context(tmp_path / "p", **inputs)
    predict.run(dataclasses.replace(SPEC, max_examples=3, tasks=("vqa_coco_2017", "refcocog_google")), context)
    (few,) = read_all(context.out)
    every = next(p for p in read_all(predicted[1].path) if p.header.task == "vqa_coco_2017")
    assert few.rows == every.rows[:3]


def test_predictions_are_scored_and_reported(inputs, predicted, tmp_path):
    world = inputs | {"predictions": predicted[1]}
    context = tiny.context(tmp_path / "s", **world)
    stats = score.run(ScoreSpec(resamples=20), context)
    assert stats["examples"] == predicted[0]["examples"]
    world |= {"score": tiny.artifact(context.out, kind="report", name="digits/score")}
    context = tiny.context(tmp_path / "r", **world)
    assert report.run(ReportSpec(), context)["pictures"] > 8


def test_a_mixture_for_another_model_is_refused(inputs, tmp_path):
    from uio2.tasks.mixture import MixtureError

    (tmp_path / "mixture").mkdir()
    values = json.loads((inputs["mixture"].path / "mixture.json").read_text())
    values["recipe"]["image_patch_size"] = 16
    (tmp_path / "mixture" / "mixture.json").write_text(json.dumps(values))
    other = tiny.artifact(tmp_path / "mixture", kind="mixture", name="digits/register")
    with pytest.raises(MixtureError, match="image_patch_size"):
        predict.run(SPEC, tiny.context(tmp_path / "p", **inputs | {"mixture": other}))


def test_tasks_the_mixture_lacks_are_left_out(inputs, tmp_path):
    with pytest.raises(StageError, match="share nothing"):
        predict.run(PredictSpec(tasks=("refcocog_google",)), tiny.context(tmp_path / "p", **inputs))
    with pytest.raises(StageError, match="batch_size"):
        PredictSpec(batch_size=0)
