"""Training on packed rows: the stage from end to end, and the loss of the same examples packed and not."""

from __future__ import annotations

import itertools
import json

import jax
import pytest
from flax import nnx

from tests.evaluate import tiny
from tests.train.test_stages import SMALL
from uio2.model import ModelConfig, UnifiedIO2, multimodal_loss, packing_metrics
from uio2.pipeline.gin_config import GinConfig
from uio2.pipeline.stage import StageError
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import open_mixture
from uio2.tasks.packing.feed import PackedFeed
from uio2.tasks.packing.spec import PackingSpec
from uio2.train import train_stage
from uio2.train.microbatches import split
from uio2.train.specs import OptimizerSpec, TrainSpec

PACKING = PackingSpec("best_fit", encoder=192, decoder={"text": 80}, window_rows=16)


@pytest.mark.long
def test_training_on_packed_rows_learns_and_drops_nothing(mixture_inputs, tmp_path):
    spec = TrainSpec(
        model_overrides=SMALL, steps=24, batch_size=4, log_every=6, checkpoint_every=24, packing=PACKING,
        optimizer=OptimizerSpec(learning_rate=3e-3, warmup_steps=2),
    )  # fmt: skip
    context = tiny.context(tmp_path, **mixture_inputs)
    stats = train_stage.run(spec, context)
    rows = [json.loads(line) for line in (context.out / "history.jsonl").open()]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert stats["packing/input_overflow"] == stats["packing/target_overflow"] == 0
    assert stats["packing/input_nonpadding_fraction"] > 0.7
    assert stats["packing/examples_per_row"] > 2
    assert stats["examples"] == pytest.approx(24 * 4 * stats["packing/examples_per_row"], rel=0.02)


@pytest.mark.long
def test_packed_and_unpacked_examples_have_the_same_loss(mixture_inputs):
    mixture = _mixture(mixture_inputs)
    packing = PackingSpec("best_fit", encoder=192, decoder={"text": 80}, window_rows=4, groups=2)
    feed = PackedFeed(mixture, packing=packing, rows=4, latents={}, seed=1)
    assert feed.windows.steps == 1, "a window is one batch, so both feeds see the same examples"
    batch = next(itertools.islice(feed.batches(start_step=2), 1))
    size = feed.windows.positions
    plain = next(itertools.islice(Feed(mixture, seed=1).batches(batch_size=size, start_step=2), 1))
    model = UnifiedIO2(ModelConfig.preset("digits").with_overrides(SMALL), rngs=nnx.Rngs(0))
    expected, _ = _loss(model, plain)
    found, metrics = _loss(model, batch, horizontally_pack_inputs=192, horizontally_pack_targets=80)
    assert found == pytest.approx(expected, rel=1e-5)
    assert metrics["packing/input_overflow"] == metrics["packing/target_overflow"] == 0
    assert metrics["packing/examples_per_row"] == pytest.approx(size / 4)
    assert _loss_in_parts(model, batch, count=2) == pytest.approx(expected, rel=1e-5)
    short = packing_metrics(batch, config=model.config, horizontally_pack_inputs=100, horizontally_pack_targets=80)
    assert short["packing/input_overflow"] > 0, "rows that are too short are seen"


def test_a_strategy_by_name_and_settings_that_cannot_work():
    config = GinConfig.parse(["configs/pipelines/digits.gin"], ["train.TrainSpec.packing='best_fit'"])
    assert config.spec(TrainSpec).packing == PackingSpec(strategy="best_fit")
    with pytest.raises(StageError, match="strategy is 'bestfit'"):
        TrainSpec(packing="bestfit")
    with pytest.raises(StageError, match=r"batch_size is 6 rows; .* PackingSpec.groups 4"):
        TrainSpec(batch_size=6, packing=PackingSpec("best_fit", groups=4))


def _mixture(inputs):
    datasets = {key: inputs[key].path / inputs[key].stats["tfds_dir"] for key in ("coco", "refcoco")}
    return open_mixture(inputs["mixture"].path, datasets=datasets, tokenizer=inputs["tokenizer"].path)


def _loss(model, batch, **lengths):
    graph, state = nnx.split(model)

    @jax.jit
    def run(state, batch):
        model = nnx.merge(graph, state)
        return multimodal_loss(model(batch, **lengths))[0], packing_metrics(batch, config=model.config, **lengths)

    loss, metrics = run(state, batch)
    return float(loss), {key: float(value) for key, value in metrics.items()}


def _loss_in_parts(model, batch, *, count):
    graph, state = nnx.split(model)

    @jax.jit
    def run(state, part, tokens):
        outputs = nnx.merge(graph, state)(part, horizontally_pack_inputs=192, horizontally_pack_targets=80)
        return multimodal_loss(outputs, tokens={"text": tokens})[0], outputs["text"].loss_mask.sum()

    parts = split(batch, count)
    each = [{key: value[i] for key, value in parts.items()} for i in range(count)]
    mean = sum(float(run(state, part, 1.0)[1]) for part in each) / count
    return sum(float(run(state, part, mean)[0]) for part in each) / count
