"""Stage `train`: Unified-IO 2 on a registered mixture, from scratch, a pre-trained vision tower or a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from uio2.model import UnifiedIO2, item_budget, multimodal_loss, packing_metrics
from uio2.model.checkpoint import native, tree
from uio2.model.config import TARGET_MODALITIES, ModelConfig
from uio2.pipeline.operative import OPERATIVE, operative_gin
from uio2.pipeline.stage import StageContext
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import Mixture, open_mixture
from uio2.tasks.packing.feed import PackedFeed
from uio2.tasks.tokenizer_stage import dataset_directories
from uio2.train.initial import frozen_parts, make_model
from uio2.train.loop import HISTORY, Batch, Loop, history_text, train
from uio2.train.models import functional
from uio2.train.sharding import data_mesh
from uio2.train.specs import TrainSpec

Batches = Callable[[int], Iterator[Batch]]


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


def _static(batch: Batch, *, config: ModelConfig) -> _Static:
    budget = tuple(item_budget(batch, config=config).items())
    if "packing/lengths" not in batch:
        return _Static(None, None, budget)
    inputs, targets = batch["packing/lengths"][0].tolist()
    return _Static(inputs, targets, budget)


def _loss(
    model: UnifiedIO2, batch: Mapping[str, Any], *, static: _Static, spec: TrainSpec
) -> tuple[Any, dict[str, Any]]:
    options: dict[str, Any] = {"horizontally_pack_inputs": static.inputs, "horizontally_pack_targets": static.targets,
               "budget": dict(static.budget)}  # fmt: skip
    loss, metrics = multimodal_loss(model(batch, **options), z_loss=spec.z_loss)
    if not spec.packing.packs:
        return loss, metrics
    return loss, metrics | packing_metrics(batch, config=model.config, **options)


def _examples(spec: TrainSpec, feed: Feed | PackedFeed) -> int:
    """Seen in all steps; of packed batches, which differ in it, as many as their windows hold on average."""
    if isinstance(feed, Feed):
        return spec.steps * spec.batch_size
    return round(spec.steps * feed.windows.positions / feed.windows.steps)


def _packing_stats(history: list[dict[str, float]]) -> dict[str, float]:
    """Means over the run, and the largest overflow, which is 0 unless something is wrong."""
    found = {key: [row[key] for row in history] for key in history[0] if key.startswith("packing/")}
    return {key: max(v) if key.endswith("_overflow") else sum(v) / len(v) for key, v in found.items()}


def _accuracy(row: Mapping[str, float]) -> float:
    """Of texts; where none are targets, of the codes of pictures or sound."""
    return next(row[key] for name in TARGET_MODALITIES if (key := f"{name}/accuracy") in row)


def run(spec: TrainSpec, context: StageContext) -> Mapping[str, Any]:
    """Trains and writes `model/` (native layout), `config.json`, `history.jsonl`, `operative_config.gin`."""
    config = ModelConfig.from_dict(spec.model_config)
    inputs = context.inputs
    mixture = open_mixture(
        inputs["mixture"].path,
        datasets=dataset_directories(inputs),
        tokenizer=inputs["tokenizer"].path,
    )
    mixture.check_model(config)
    mesh = data_mesh(batch_size=spec.packing.groups if spec.packing.packs else spec.batch_size)
    module, params = functional(make_model(config, seed=spec.seed, inputs=inputs))
    feed, batches = _feed(spec, mixture, config)
    loop = Loop.of(
        spec,
        loss=lambda values, batch, static: _loss(module(values), batch, static=static, spec=spec),
        static=lambda batch: _static(batch, config=config),
        batches=batches,
        mesh=mesh,
        label="train",
        frozen=frozen_parts(config),
    )
    params, history = train(loop, params, context)
    if feed.stats.dropped:
        print(feed.stats.text())
    model = module(params)
    native.save(model, context.out / "model")
    (context.out / "config.json").write_text(config.to_json() + "\n")
    (context.out / HISTORY).write_text(history_text(history))
    (context.out / OPERATIVE).write_text(operative_gin({"train": spec}))
    size = sum(array.size for array in tree.flatten(model).values())
    return {
        "parameters": int(size),
        "steps": spec.steps,
        "examples": _examples(spec, feed),
        "dropped": dict(feed.stats.dropped),
        "loss": history[-1]["loss"],
        "accuracy": _accuracy(history[-1]),
        **_packing_stats(history),
    }
