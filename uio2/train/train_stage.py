"""Stage `train`: Unified-IO 2 on a registered mixture, from scratch or on a pre-trained vision tower."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from uio2.model import UnifiedIO2, multimodal_loss, packing_metrics
from uio2.model.budget import budget_of, count_items
from uio2.model.checkpoint import native, tree
from uio2.model.checkpoint.stored import Placement
from uio2.model.config import ModelConfig
from uio2.model.sharding import Plan
from uio2.pipeline.artifact import Artifact, canonical_json
from uio2.pipeline.stage import StageContext, spec_to_json
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import Mixture, open_mixture
from uio2.tasks.packing.feed import PackedFeed
from uio2.train import lora
from uio2.train.alarms import Describe
from uio2.train.execution import Execution
from uio2.train.loop import HISTORY, Batch, Batches, Items, Loop, history_text, train
from uio2.train.microbatches import split
from uio2.train.models import Start, fresh_model, functional, on_one_device, placement
from uio2.train.processes import Crew, crew
from uio2.train.sharding import Share, open_mesh, parameter_shardings, whole
from uio2.train.specs import TrainSpec
from uio2.train.vision_tower import load_vit

# Fields of the recipe that decide which example stands where.
ORDER = ("seed", "batch_size", "packing")


def make_model(
    config: ModelConfig, *, seed: int, vision: Artifact | None, sharding: Placement = on_one_device
) -> UnifiedIO2:
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

    @property
    def options(self) -> dict[str, Any]:
        """As the model takes it."""
        return {"horizontally_pack_inputs": self.inputs, "horizontally_pack_targets": self.targets,
                "budget": dict(self.budget)}  # fmt: skip


def _items(batch: Batch, *, config: ModelConfig, microbatches: int) -> dict[str, tuple[int, int]]:
    """What every microbatch holds, by `number:name`."""
    if microbatches == 1:
        return {f"0:{name}": counts for name, counts in count_items(batch, config=config).items()}
    masks = {key: value for key, value in batch.items() if key.endswith(("/mask", "/codes", "packing/row"))}
    parts = split({key: np.asarray(value) for key, value in masks.items()}, microbatches)
    found: dict[str, tuple[int, int]] = {}
    for number in range(microbatches):
        part = {key: value[number] for key, value in parts.items()}
        found |= {f"{number}:{name}": counts for name, counts in count_items(part, config=config).items()}
    return found


def _budget(items: Items) -> dict[str, int]:
    """What every microbatch can do with: they share one program."""
    parts: dict[str, dict[str, tuple[int, int]]] = {}
    for key, counts in items.items():
        number, _, name = key.partition(":")
        parts.setdefault(number, {})[name] = counts
    budgets = [budget_of(part) for part in parts.values()]
    named = [name for name in budgets[0] if all(name in budget for budget in budgets)] if budgets else []
    return {name: max(budget[name] for budget in budgets) for name in named}


def _static(batch: Batch, items: Items | None = None, *, config: ModelConfig, microbatches: int) -> _Static:
    counted = _items(batch, config=config, microbatches=microbatches) if items is None else items
    budget = tuple(_budget(counted).items())
    if "packing/lengths" not in batch:
        return _Static(None, None, budget)
    inputs, targets = batch["packing/lengths"][0].tolist()
    return _Static(inputs, targets, budget)


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


def _added_up(said: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum(map(collections.Counter, said), collections.Counter()))


def run(spec: TrainSpec, context: StageContext) -> Mapping[str, Any]:
    """Trains and writes `model/` (native layout), `config.json`, `history.jsonl`; `checkpoints/` if some are kept."""
    execution = Execution.from_environment()
    with crew(execution) as together:
        return _run(spec, context, execution=execution, together=together)


def _start(
    spec: TrainSpec, config: ModelConfig, *, vision: Artifact | None, plan: Plan, mesh: Mesh
) -> tuple[Callable[[Any], UnifiedIO2], Start]:
    """(model parameters -> model, what training starts from: these, with adapters beside them where there are any)."""
    module, shapes = functional(tree.abstract_model(config))
    sharding, adapted = placement(config, plan=plan, mesh=mesh), spec.lora

    def make() -> Any:
        return functional(make_model(config, seed=spec.seed, vision=vision, sharding=sharding))[1]

    if adapted is None:
        return module, Start(shapes, make)

    def adapt(params: Any) -> Any:
        return lora.parameters(params, adapted, seed=spec.seed)

    both = jax.eval_shape(adapt, shapes)
    places = parameter_shardings(both, plan=plan, mesh=mesh)
    return module, Start(both, lambda: jax.jit(adapt, out_shardings=places)(make()))


def _run(spec: TrainSpec, context: StageContext, *, execution: Execution, together: Crew) -> Mapping[str, Any]:
    config = ModelConfig.from_dict(spec.model_config)
    inputs = context.inputs
    mixture = open_mixture(
        inputs["mixture"].path,
        datasets={k: inputs[k].path / inputs[k].stats["tfds_dir"] for k in inputs if inputs[k].kind == "dataset"},
        tokenizer=inputs["tokenizer"].path,
    )
    mixture.check_model(config)
    plan, adapted = execution.plan, spec.lora
    mesh = open_mesh(execution, batch_size=spec.packing.groups if spec.packing.packs else spec.batch_size)
    source = _source(spec, mixture, config, Share.of(mesh))
    module, start = _start(spec, config, vision=inputs.get("vision"), plan=plan, mesh=mesh)

    def model_of(values: Any) -> UnifiedIO2:
        return module(values if adapted is None else lora.merged(values, adapted))

    def tokens(values: Any, batch: Mapping[str, Any], *, static: _Static) -> dict[str, Any]:
        outputs = model_of(values)(batch, **static.options)
        return {name: output.loss_mask.sum() for name, output in outputs.items()}

    def write(path: Path, values: Any) -> None:
        flat = {name: whole(array) for name, array in tree.flatten(model_of(values)).items()}
        if together.leads:
            native.save_flat({name: array for name, array in flat.items() if array is not None}, path, config=config)

    parts = spec.step.microbatches
    loop = Loop.of(
        spec,
        loss=lambda values, batch, **options: _loss(model_of(values), batch, spec=spec, **options),
        static=functools.partial(_static, config=config, microbatches=parts),
        items=functools.partial(_items, config=config, microbatches=parts),
        tokens=tokens,
        batches=source.batches,
        mesh=mesh,
        plan=plan,
        label="train",
        only=None if adapted is None else (f"{lora.ADAPTERS}/*", *adapted.train),
        frozen=_frozen(config),
        order=_order(spec, inputs["mixture"]),
        describe=source.describe,
        keep=lambda step, values: write(context.out / "checkpoints" / str(step), values),
    )
    params, history = train(loop, start, context, crew=together)
    if source.feed.stats.dropped:
        print(source.feed.stats.text())
    dropped = together.agree("dropped", source.feed.stats.dropped, merge=_added_up)
    write(context.out / "model", params)
    if together.leads:
        if adapted is not None:
            lora.save(params[lora.ADAPTERS], adapted, context.out / "adapters")
        (context.out / "config.json").write_text(config.to_json() + "\n")
        (context.out / HISTORY).write_text(history_text(history))
    size = sum(int(np.prod(shape)) for shape in tree.shapes(config).values())
    return {
        "parameters": int(size),
        "steps": spec.steps,
        "examples": _examples(spec, source.feed),
        "dropped": dropped,
        "loss": history[-1]["loss"],
        "accuracy": history[-1]["text/accuracy"],
        **_packing_stats(history),
    }
