"""Stage `train`: Unified-IO 2 on a registered mixture, from scratch or on a pre-trained vision tower."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx

from uio2.model import UnifiedIO2, item_budget, multimodal_loss, packing_metrics
from uio2.model.checkpoint import native, tree
from uio2.model.config import ModelConfig
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import StageContext
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import Mixture, open_mixture
from uio2.tasks.packing.feed import PackedFeed
from uio2.train import lora
from uio2.train.loop import HISTORY, Batch, Loop, history_text, train
from uio2.train.microbatches import split
from uio2.train.models import functional
from uio2.train.sharding import data_mesh
from uio2.train.specs import TrainSpec
from uio2.train.vision_tower import load_vit

Batches = Callable[[int], Iterator[Batch]]


def make_model(config: ModelConfig, *, seed: int, vision: Artifact | None) -> UnifiedIO2:
    """A fresh model, its vision transformer taken from `vision` if given."""
    model = UnifiedIO2(config, rngs=nnx.Rngs(seed))
    return model if vision is None else tree.build(load_vit(vision.path, tree.flatten(model)), config=config)


def _feed(spec: TrainSpec, mixture: Mixture, config: ModelConfig) -> tuple[Feed | PackedFeed, Batches]:
    """The feed, and its batches from a step on."""
    if not spec.packing.packs:
        plain = Feed(mixture, seed=spec.seed)
        return plain, lambda step: plain.batches(batch_size=spec.batch_size, start_step=step)
    latents = {
        "image_history": config.image_resampler.num_latents,
        "audio_history": config.audio_resampler.num_latents,
    }
    feed = PackedFeed(mixture, packing=spec.packing, rows=spec.batch_size, latents=latents, seed=spec.seed)
    return feed, lambda step: feed.batches(start_step=step)


@dataclasses.dataclass(frozen=True)
class _Static:
    """What of a batch the step is compiled for: lengths of packed rows (None: not packed) and the budget of items."""

    inputs: int | None
    targets: int | None
    budget: tuple[tuple[str, int], ...]

    @property
    def options(self) -> dict[str, Any]:
        """As the model takes it."""
        return {"horizontally_pack_inputs": self.inputs, "horizontally_pack_targets": self.targets,
                "budget": dict(self.budget)}  # fmt: skip


def _static(batch: Batch, *, config: ModelConfig, microbatches: int) -> _Static:
    budget = tuple(_budget(batch, config=config, microbatches=microbatches).items())
    if "packing/lengths" not in batch:
        return _Static(None, None, budget)
    inputs, targets = batch["packing/lengths"][0].tolist()
    return _Static(inputs, targets, budget)


def _budget(batch: Batch, *, config: ModelConfig, microbatches: int) -> dict[str, int]:
    """What every microbatch can do with: they share one program."""
    if microbatches == 1:
        return item_budget(batch, config=config)
    masks = {key: value for key, value in batch.items() if key.endswith(("/mask", "/codes", "packing/row"))}
    parts = split({key: np.asarray(value) for key, value in masks.items()}, microbatches)
    budgets = [item_budget({k: v[i] for k, v in parts.items()}, config=config) for i in range(microbatches)]
    named = [name for name in budgets[0] if all(name in budget for budget in budgets)]
    return {name: max(budget[name] for budget in budgets) for name in named}


def _loss(
    model: UnifiedIO2, batch: Mapping[str, Any], *, static: _Static, spec: TrainSpec,
    tokens: Mapping[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    loss, metrics = multimodal_loss(model(batch, **static.options), z_loss=spec.z_loss, tokens=tokens)
    if not spec.packing.packs:
        return loss, metrics
    return loss, metrics | packing_metrics(batch, config=model.config, **static.options)


def _frozen(config: ModelConfig) -> tuple[str, ...]:
    """Patterns of what the model gives no gradient: without these AdamW would shrink it."""
    return (*(("image_vit/*", "audio_vit/*") if config.freeze_vit else ()), "*_target/codec/*")


def _examples(spec: TrainSpec, feed: Feed | PackedFeed) -> int:
    """Seen in all steps; of packed batches, which differ in it, as many as their windows hold on average."""
    if isinstance(feed, Feed):
        return spec.steps * spec.batch_size
    return round(spec.steps * feed.windows.positions / feed.windows.steps)


def _packing_stats(history: list[dict[str, float]]) -> dict[str, float]:
    """Means over the run, and the largest overflow, which is 0 unless something is wrong."""
    found = {key: [row[key] for row in history] for key in history[0] if key.startswith("packing/")}
    return {key: max(v) if key.endswith("_overflow") else sum(v) / len(v) for key, v in found.items()}


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
    mesh = data_mesh(batch_size=spec.packing.groups if spec.packing.packs else spec.batch_size)
    module, params = functional(make_model(config, seed=spec.seed, vision=inputs.get("vision")))
    adapted = spec.lora
    if adapted is not None:
        params = lora.parameters(params, adapted, seed=spec.seed)

    def model_of(values: Any) -> UnifiedIO2:
        return module(values if adapted is None else lora.merged(values, adapted))

    def tokens(values: Any, batch: Mapping[str, Any], *, static: _Static) -> dict[str, Any]:
        outputs = model_of(values)(batch, **static.options)
        return {name: output.loss_mask.sum() for name, output in outputs.items()}

    feed, batches = _feed(spec, mixture, config)
    loop = Loop.of(
        spec,
        loss=lambda values, batch, **options: _loss(model_of(values), batch, spec=spec, **options),
        static=lambda batch: _static(batch, config=config, microbatches=spec.step.microbatches),
        tokens=tokens,
        batches=batches,
        mesh=mesh,
        label="train",
        only=None if adapted is None else (f"{lora.ADAPTERS}/*", *adapted.train),
        frozen=_frozen(config),
    )
    params, history = train(loop, params, context)
    if feed.stats.dropped:
        print(feed.stats.text())
    model = model_of(params)
    if adapted is not None:
        lora.save(params[lora.ADAPTERS], adapted, context.out / "adapters")
    native.save(model, context.out / "model")
    (context.out / "config.json").write_text(config.to_json() + "\n")
    (context.out / HISTORY).write_text(history_text(history))
    size = sum(array.size for array in tree.flatten(model).values())
    return {
        "parameters": int(size),
        "steps": spec.steps,
        "examples": _examples(spec, feed),
        "dropped": dict(feed.stats.dropped),
        "loss": history[-1]["loss"],
        "accuracy": history[-1]["text/accuracy"],
        **_packing_stats(history),
    }
