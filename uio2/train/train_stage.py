"""Stage `train`: Unified-IO 2 on a registered mixture, from scratch or on a pre-trained vision tower."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from uio2.model import UnifiedIO2, multimodal_loss, packing_metrics
from uio2.model.budget import budget_of, count_items
from uio2.model.checkpoint import native, tree
from uio2.model.checkpoint.stored import Placement
from uio2.model.config import ModelConfig
from uio2.pipeline.artifact import Artifact, canonical_json
from uio2.pipeline.stage import StageContext, spec_to_json
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import Mixture, open_mixture
from uio2.tasks.packing.feed import PackedFeed
from uio2.train.alarms import Describe
from uio2.train.execution import Execution
from uio2.train.loop import HISTORY, Batch, Batches, Items, Loop, history_text, train
from uio2.train.models import Start, fresh_model, functional, placement
from uio2.train.processes import Crew, crew
from uio2.train.sharding import Share, open_mesh, whole
from uio2.train.specs import TrainSpec
from uio2.train.vision_tower import load_vit

VIT = "image_vit/"
# Fields of the recipe that decide which example stands where.
ORDER = ("seed", "batch_size", "packing")


def make_model(config: ModelConfig, *, seed: int, vision: Artifact | None, sharding: Placement) -> UnifiedIO2:
    """A fresh model, its vision transformer taken from `vision` if given; `sharding` says where parameters go."""
    model = fresh_model(config, seed=seed, sharding=sharding)
    if vision is None:
        return model
    return tree.build(load_vit(vision.path, tree.flatten(model)), config=config, sharding=sharding)


@dataclasses.dataclass(frozen=True)
class _Source:
    """A feed; its batches from a step on, this process's part of them; the examples of a step, from 1."""

    feed: Feed | PackedFeed
    batches: Batches
    describe: Describe


def _source(spec: TrainSpec, mixture: Mixture, config: ModelConfig, share: Share) -> _Source:
    mine = {"num_hosts": share.count, "host": share.number}
    if not spec.packing.packs:
        plain, size = Feed(mixture, seed=spec.seed), spec.batch_size
        return _Source(
            plain,
            lambda step: plain.batches(batch_size=size, start_step=step, **mine),
            lambda step: plain.describe(np.arange((step - 1) * size, step * size)),
        )
    latents = {
        "image_history": config.image_resampler.num_latents,
        "audio_history": config.audio_resampler.num_latents,
    }
    feed = PackedFeed(mixture, packing=spec.packing, rows=spec.batch_size, latents=latents, seed=spec.seed)
    return _Source(feed, lambda step: feed.batches(start_step=step, **mine), lambda step: feed.describe(step - 1))


def _order(spec: TrainSpec, mixture: Artifact) -> str:
    """A fingerprint of all that decides which example stands where."""
    value = {"mixture": mixture.digest, **{key: spec_to_json(getattr(spec, key)) for key in ORDER}}
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class _Static:
    """What of a batch the step is compiled for: lengths of packed rows (None: not packed) and the budget of items."""

    inputs: int | None
    targets: int | None
    budget: tuple[tuple[str, int], ...]


def _static(batch: Batch, items: Items | None = None, *, config: ModelConfig) -> _Static:
    budget = tuple(budget_of(count_items(batch, config=config) if items is None else items).items())
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


def run(spec: TrainSpec, context: StageContext) -> Mapping[str, Any]:
    """Trains and writes `model/` (native layout), `config.json`, `history.jsonl`."""
    execution = Execution.from_environment()
    with crew(execution) as together:
        return _run(spec, context, execution=execution, together=together)


def _run(spec: TrainSpec, context: StageContext, *, execution: Execution, together: Crew) -> Mapping[str, Any]:
    config = ModelConfig.from_dict(spec.model_config)
    inputs = context.inputs
    mixture = open_mixture(
        inputs["mixture"].path,
        datasets={k: inputs[k].path / inputs[k].stats["tfds_dir"] for k in inputs if inputs[k].kind == "dataset"},
        tokenizer=inputs["tokenizer"].path,
    )
    mixture.check_model(config)
    plan = execution.plan
    mesh = open_mesh(execution, batch_size=spec.packing.groups if spec.packing.packs else spec.batch_size)
    source = _source(spec, mixture, config, Share.of(mesh))
    module, shapes = functional(tree.abstract_model(config))
    sharding = placement(config, plan=plan, mesh=mesh)
    start = Start(
        shapes,
        lambda: functional(make_model(config, seed=spec.seed, vision=inputs.get("vision"), sharding=sharding))[1],
    )
    loop = Loop.of(
        spec,
        loss=lambda values, batch, static: _loss(module(values), batch, static=static, spec=spec),
        static=functools.partial(_static, config=config),
        items=lambda batch: count_items(batch, config=config),
        batches=source.batches,
        mesh=mesh,
        plan=plan,
        label="train",
        frozen=(VIT,) if config.freeze_vit else (),
        order=_order(spec, inputs["mixture"]),
        describe=source.describe,
    )
    params, history = train(loop, start, context, crew=together)
    if source.feed.stats.dropped:
        print(source.feed.stats.text())
    model = module(params)
    flat = {name: whole(array) for name, array in tree.flatten(model).items()}
    if together.leads:
        native.save_flat(flat, context.out / "model", config=config)
        (context.out / "config.json").write_text(config.to_json() + "\n")
        (context.out / HISTORY).write_text(history_text(history))
    size = sum(array.size for array in jax.tree.leaves(shapes))
    return {
        "parameters": int(size),
        "steps": spec.steps,
        "examples": _examples(spec, source.feed),
        "dropped": dict(source.feed.stats.dropped),
        "loss": history[-1]["loss"],
        "accuracy": history[-1]["text/accuracy"],
        **_packing_stats(history),
    }
