"""Stage `train`: Unified-IO 2 on a registered mixture, from scratch or on a pre-trained vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import nnx

from uio2.model import UnifiedIO2, multimodal_loss
from uio2.model.checkpoint import native, tree
from uio2.model.config import ModelConfig
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import StageContext
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import open_mixture
from uio2.train.loop import HISTORY, Loop, history_text, train
from uio2.train.models import functional
from uio2.train.sharding import data_mesh
from uio2.train.specs import TrainSpec
from uio2.train.vision_tower import load_vit

VIT = "image_vit/"


def make_model(config: ModelConfig, *, seed: int, vision: Artifact | None) -> UnifiedIO2:
    """A fresh model, its vision transformer taken from `vision` if given."""
    model = UnifiedIO2(config, rngs=nnx.Rngs(seed))
    return model if vision is None else tree.build(load_vit(vision.path, tree.flatten(model)), config=config)


def run(spec: TrainSpec, context: StageContext) -> Mapping[str, Any]:
    """Trains and writes `model/` (native layout), `config.json`, `history.jsonl`."""
    config = ModelConfig.from_dict(spec.model_config)
    inputs = context.inputs
    mixture = open_mixture(
        inputs["mixture"].path,
        datasets={k: inputs[k].path / inputs[k].stats["tfds_dir"] for k in inputs if inputs[k].kind == "dataset"},
        tokenizer=inputs["tokenizer"].path,
    )
    mixture.check_model(config)
    mesh = data_mesh(batch_size=spec.batch_size)
    module, params = functional(make_model(config, seed=spec.seed, vision=inputs.get("vision")))
    feed = Feed(mixture, seed=spec.seed)
    loop = Loop.of(
        spec,
        loss=lambda values, batch: multimodal_loss(module(values)(batch), z_loss=spec.z_loss),
        batches=lambda step: feed.batches(batch_size=spec.batch_size, start_step=step),
        mesh=mesh,
        label="train",
        frozen=(VIT,) if config.freeze_vit else (),
    )
    params, history = train(loop, params, context)
    if feed.stats.dropped:
        print(feed.stats.text())
    model = module(params)
    native.save(model, context.out / "model")
    (context.out / "config.json").write_text(config.to_json() + "\n")
    (context.out / HISTORY).write_text(history_text(history))
    size = sum(array.size for array in tree.flatten(model).values())
    return {
        "parameters": int(size),
        "steps": spec.steps,
        "examples": spec.steps * spec.batch_size,
        "dropped": dict(feed.stats.dropped),
        "loss": history[-1]["loss"],
        "accuracy": history[-1]["text/accuracy"],
    }
