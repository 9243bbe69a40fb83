"""The vision tower and train stages on small stored datasets."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluate import tiny
from tests.tiny import scenes
from uio2.evaluate import predict, score
from uio2.evaluate.specs import PredictSpec, ScoreSpec
from uio2.model.checkpoint import native, tree
from uio2.model.config import ModelConfig
from uio2.model.parts import ConfigError
from uio2.pipeline.stage import StageError
from uio2.tasks import guard
from uio2.tasks.datasets import StoredDataset
from uio2.tasks.mixture import MixtureError
from uio2.train import lora, train_stage, vision_tower
from uio2.train.evaluation_spec import EvaluationSpec
from uio2.train.initial import make_model
from uio2.train.models import functional
from uio2.train.specs import LoraSpec, OptimizerSpec, SavingSpec, StepSpec, TrainSpec, VisionTowerSpec

SMALL = {
    "emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 48, "num_encoder_layers": 1, "num_decoder_layers": 1,
    "text_vocab_size": 2048, "encoder_max_text_length": 64, "decoder_max_text_length": 64,
    "image_vit": {"emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 64, "num_layers": 2},
}  # fmt: skip


def test_dense_labels_say_what_covers_each_patch():
    config = dataclasses.replace(ModelConfig.preset("digits"), image_size=(32, 48))
    boxes = tf.constant([[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 32.0, 32.0]])
    labels, distances = vision_tower.dense_labels(boxes, tf.constant([3, 5], tf.int64), config=config, background=10)
    np.testing.assert_array_equal(labels, [3, 5, 10, 5, 5, 10])  # the smaller box wins where both cover
    np.testing.assert_allclose(distances[0], [0.5, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(distances[4], [1.5, 1.5, 0.5, 0.5])
    np.testing.assert_allclose(distances[2], 0.0)


def test_an_image_without_objects_is_background():
    config = ModelConfig.preset("digits")
    nothing = tf.zeros([0, 4]), tf.zeros([0], tf.int64)
    labels, distances = vision_tower.dense_labels(*nothing, config=config, background=10)
    assert (labels.numpy() == 10).all()
    assert not np.any(distances)


def test_overrides_are_checked():
    assert ModelConfig.preset("digits").with_overrides({"image_size": [64, 64]}).image_size == (64, 64)
    assert ModelConfig.preset("digits").with_overrides({"image_vit": {"num_layers": 2}}).image_vit.num_layers == 2
    assert VisionTowerSpec().model_config["image_size"] == [96, 96]
    with pytest.raises(ConfigError, match="did you mean 'emb_dim'"):
        ModelConfig.preset("digits").with_overrides({"emb_dims": 3})


def pictures(folder, broken):
    """The batches of two steps, and the feed, of twelve pictures of which these do not decode."""
    rows = [row | {"image": b"no picture"} if n in broken else row for n, row in enumerate(scenes.bare_rows(12))]
    path = scenes.write(folder, "coco_all", scenes.COCO, {"train": rows})
    feed = vision_tower.DenseFeed(StoredDataset(path), config=ModelConfig.preset("digits"), seed=3)
    return list(itertools.islice(feed.batches(batch_size=6), 2)), feed


def test_a_broken_picture_keeps_its_place_in_the_feed_of_the_tower(tmp_path):
    whole, feed = pictures(tmp_path / "whole", ())
    assert not feed.stats.dropped
    found, feed = pictures(tmp_path / "broken", (0, 7))
    assert feed.stats.dropped == {guard.IMAGE: 2}
    shown = np.concatenate([batch["mask"] for batch in found]).any(axis=1)
    assert shown.sum() == 10
    for one, two, rows in zip(whole, found, np.split(shown, 2), strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key][rows], two[key][rows], err_msg=key)


def test_a_tower_without_one_picture_that_decodes_is_an_error(tmp_path):
    with pytest.raises(StageError, match=r"coco_all.*none of \d+ records in a row"):
        pictures(tmp_path, range(12))


@pytest.fixture(scope="module")
def tower(world, tmp_path_factory):
    """A vision tower trained for a few steps on the small world."""
    spec = VisionTowerSpec(
        model_overrides=SMALL, steps=30, batch_size=8, log_every=10, checkpoint_every=10,
        optimizer=OptimizerSpec(learning_rate=3e-3, warmup_steps=5),
    )  # fmt: skip
    context = tiny.context(tmp_path_factory.mktemp("tower"), coco=world.inputs["coco"])
    stats = vision_tower.run(spec, context)
    return tiny.artifact(context.out, kind="checkpoint", name="digits/vision-tower"), stats


def test_the_tower_learns_and_moves_into_the_model(tower):
    artifact, stats = tower
    rows = [line for line in (artifact.path / "history.jsonl").read_text().splitlines() if line]
    assert len(rows) == 3
    assert stats["classes"] == 10
    config = ModelConfig.preset("digits").with_overrides(SMALL)
    fresh = make_model(config, seed=0, inputs={})
    placed = make_model(config, seed=0, inputs={"vision": artifact})
    stored = native.load_arrays(artifact.path / "vit")
    before, after = tree.flatten(fresh), tree.flatten(placed)
    for name, value in after.items():
        inside = name.removeprefix("image_vit/")
        np.testing.assert_array_equal(value, stored[inside] if inside != name else before[name])


def test_a_tower_of_another_size_is_refused(tower):
    artifact, _ = tower
    other = ModelConfig.preset("digits").with_overrides(SMALL | {"image_vit": {**SMALL["image_vit"], "mlp_dim": 80}})
    with pytest.raises(tree.CheckpointError, match="misshapen"):
        make_model(other, seed=0, inputs={"vision": artifact})


SCORED = ("vqa_coco_2017", "refcoco_unc")
EVALUATION = EvaluationSpec(every=30, batches=2, examples=6, tasks=SCORED, batch_size=4, max_length=8)
EVALUATED = TrainSpec(
    model_overrides=SMALL, steps=60, batch_size=8, log_every=10, checkpoint_every=30,
    optimizer=OptimizerSpec(learning_rate=3e-3, warmup_steps=2), step=StepSpec(ema_decay=0.5), evaluation=EVALUATION,
    saving=SavingSpec(minutes=0, keep_best=1, best_metric="validation/loss", publish="best"),
)  # fmt: skip


@pytest.fixture(scope="module")
def learned(mixture_inputs, tower, tmp_path_factory):
    """(stats, output, what was measured by step) of a training on the mixture that is evaluated meanwhile."""
    measured = {}
    context = dataclasses.replace(
        tiny.context(tmp_path_factory.mktemp("learned"), vision=tower[0], **mixture_inputs),
        metric=lambda step, values: measured.setdefault(step, {}).update(values),
    )
    return train_stage.run(EVALUATED, context), context.out, measured


def test_the_model_learns_the_mixture(learned, tower):
    stats, out, measured = learned
    rows = [json.loads(line) for line in (out / "history.jsonl").open()]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert stats["examples"] == 480
    losses = [row[key] for row in rows for key in row if key.startswith("task/") and key.endswith("/loss")]
    assert len(losses) > 3 * len(rows)
    assert rows[-1]["task/vqa_coco_2017/loss"] < rows[0]["task/vqa_coco_2017/loss"]
    assert 0 < rows[-1]["tokens/input"] < rows[-1]["tokens/input_places"] == 8 * (48 + 36)
    last = measured[60]
    assert last["speed/real_tokens_per_s"] < last["speed/padded_tokens_per_s"]
    assert 0 < last["speed/model_tflops_per_s"] < 10
    model = native.load(out / "model")
    tower_after = tree.flatten(model)["image_vit/patch/kernel"]
    stored = native.load_arrays(tower[0].path / "vit")["patch/kernel"]
    np.testing.assert_array_equal(tower_after, stored)  # frozen means frozen: no decay either


def test_figures_while_training_are_those_of_predict_and_score_on_the_published_model(
    mixture_inputs, learned, tmp_path
):
    stats, out, _ = learned
    rows = {row["step"]: row for row in map(json.loads, (out / "history.jsonl").open())}
    evaluated = {step: row["validation/loss"] for step, row in rows.items() if "validation/loss" in row}
    assert list(evaluated) == [30, 60]
    step = min(evaluated, key=evaluated.get)
    assert (stats["published_step"], stats["validation/loss"]) == (step, evaluated[step])

    inputs = mixture_inputs | {"checkpoint": tiny.artifact(out, kind="checkpoint", name="digits/train")}
    context = tiny.context(tmp_path / "predict", **inputs)
    predict.run(PredictSpec(SCORED, batch_size=4, max_examples=6, max_length=8), context)
    inputs["predictions"] = tiny.artifact(context.out, kind="predictions", name="digits/predict")
    offline = score.run(ScoreSpec(resamples=1), tiny.context(tmp_path / "score", **inputs))["metrics"]
    assert {"vqa/exact_match", "refexp/iou"} <= offline.keys()
    found = {key: rows[step][f"validation/{key}"] for key in offline}
    assert found == pytest.approx({key: figure["value"] for key, figure in offline.items()}, rel=1e-5)


def test_what_cannot_be_evaluated_is_refused_before_the_first_step(mixture_inputs, tmp_path):
    context = tiny.context(tmp_path, **mixture_inputs)

    def run(**changes) -> None:
        evaluation = dataclasses.replace(EVALUATION, **changes)
        train_stage.run(dataclasses.replace(EVALUATED, evaluation=evaluation), context)

    with pytest.raises(StageError, match=r"tasks names 'okvqa'; tasks of the mixture with examples .*refcoco_unc"):
        run(tasks=("okvqa",))
    with pytest.raises(StageError, match=r"split is 'test', in which no task of the mixture has an example"):
        run(split="test")
    with pytest.raises(StageError, match=r"scorer is 'uio2.evaluate.in_training:nothing'"):
        run(scorer="uio2.evaluate.in_training:nothing")
    with pytest.raises(StageError, match=r"EvaluationSpec.every is 25; expected a multiple of TrainSpec.log_every 10"):
        run(every=25)
    with pytest.raises(StageError, match=r"checkpoint_every is 30; .*multiple of EvaluationSpec.every 20"):
        run(every=20)
    with pytest.raises(StageError, match=r"best_metric is 'validation/loss' without evaluation"):
        run(every=0)


def test_adapters_are_trained_in_microbatches_and_published_in_the_model(mixture_inputs, tmp_path):
    context = tiny.context(tmp_path, **mixture_inputs)
    spec = TrainSpec(
        model_overrides=SMALL, steps=12, batch_size=8, log_every=6, checkpoint_every=12,
        lora=LoraSpec(layers=("decoder/*",), rank=4, train=("text_embedder/*",), dropout=0.1),
        step=StepSpec(microbatches=2), optimizer=OptimizerSpec(learning_rate=3e-3, warmup_steps=2),
    )  # fmt: skip
    train_stage.run(spec, context)
    model = native.load(context.out / "model")
    start = make_model(model.config, seed=spec.seed, inputs={})
    adapters, stored = lora.load(context.out / "adapters")
    module, params = functional(start)
    expected = tree.flatten(module(lora.merged({"model": params, "adapters": adapters}, stored)))
    before = tree.flatten(start)
    for name, value in tree.flatten(model).items():
        if name == "text_embedder/embedding":
            assert np.abs(value - before[name]).max() > 1e-3, "trained beside the adapters"
            continue
        np.testing.assert_array_equal(value, expected[name])
        changed = name.startswith("decoder/") and name.endswith("/kernel")
        assert (np.abs(value - before[name]).max() > 0) == changed, name


def test_a_model_too_small_for_the_tokenizer_is_refused(mixture_inputs, tmp_path):
    spec = TrainSpec(model_overrides=SMALL | {"text_vocab_size": 128}, steps=1, log_every=1, checkpoint_every=1)
    with pytest.raises(MixtureError, match="text_vocab_size is 128"):
        train_stage.run(spec, tiny.context(tmp_path, **mixture_inputs))
