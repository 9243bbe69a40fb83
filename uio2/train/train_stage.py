"""Stage `train`: Unified-IO 2 on a registered mixture, from scratch, a pre-trained vision tower or a checkpoint."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uio2.model.checkpoint import native, tree
from uio2.model.config import TARGET_MODALITIES, ModelConfig
from uio2.pipeline.artifact import Artifact, canonical_json
from uio2.pipeline.operative import OPERATIVE, operative_gin
from uio2.pipeline.stage import StageContext, spec_to_json
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import Mixture, open_mixture
from uio2.tasks.packing.feed import PackedFeed
from uio2.tasks.tokenizer_stage import dataset_directories
from uio2.train import lora
from uio2.train.alarms import Describe
from uio2.train.counting import step_operations
from uio2.train.evaluation import Evaluation
from uio2.train.evaluation_spec import VALIDATION
from uio2.train.execution import Execution
from uio2.train.loop import HISTORY, Batches, history_text, train
from uio2.train.meters import goodput
from uio2.train.processes import Crew, crew
from uio2.train.program import Program, start_of
from uio2.train.sharding import Share, open_mesh, whole
from uio2.train.specs import TrainSpec

# Fields of the recipe that decide which example stands where.
ORDER = ("seed", "batch_size", "packing")


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


def _examples(spec: TrainSpec, feed: Feed | PackedFeed) -> int:
    """Seen in all steps; of packed batches, which differ in it, as many as their windows hold on average."""
    if isinstance(feed, Feed):
        return spec.steps * spec.batch_size
    return round(spec.steps * feed.windows.positions / feed.windows.steps)


def _packing_stats(history: list[dict[str, float]]) -> dict[str, float]:
    """Means over the run, and the largest overflow, which is 0 unless something is wrong."""
    found = {key: [row[key] for row in history] for key in history[0] if key.startswith("packing/")}
    return {key: max(v) if key.endswith("_overflow") else sum(v) / len(v) for key, v in found.items()}


def _validation(history: list[dict[str, float]], *, step: int) -> dict[str, float]:
    """Figures of the evaluation after a step, if there was one."""
    row = next((row for row in history if row["step"] == step), {})
    return {name: value for name, value in row.items() if name.startswith(VALIDATION)}


def _accuracy(row: Mapping[str, float]) -> float:
    """Of texts; where none are targets, of the codes of pictures or sound."""
    return next(row[key] for name in TARGET_MODALITIES if (key := f"{name}/accuracy") in row)


def _added_up(said: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum(map(collections.Counter, said), collections.Counter()))


def run(spec: TrainSpec, context: StageContext) -> Mapping[str, Any]:
    """Trains and writes `model/` (native layout), `config.json`, `history.jsonl`, `operative_config.gin`; also
    `checkpoints/` if some are kept."""
    execution = Execution.from_environment()
    with crew(execution) as together:
        return _run(spec, context, execution=execution, together=together)


def _run(spec: TrainSpec, context: StageContext, *, execution: Execution, together: Crew) -> Mapping[str, Any]:
    config = ModelConfig.from_dict(spec.model_config)
    inputs = context.inputs
    mixture = open_mixture(
        inputs["mixture"].path,
        datasets=dataset_directories(inputs),
        tokenizer=inputs["tokenizer"].path,
    )
    mixture.check_model(config)
    plan, adapted = execution.plan, spec.lora
    mesh = open_mesh(execution, batch_size=spec.packing.groups if spec.packing.packs else spec.batch_size)
    source = _source(spec, mixture, config, Share.of(mesh))
    module, start = start_of(spec, config, inputs=inputs, plan=plan, mesh=mesh)
    program = Program(spec, config, module, source.feed.tasks)

    def write(path: Path, values: Any) -> None:
        flat = {name: whole(array) for name, array in tree.flatten(program.model(values)).items()}
        if together.leads:
            native.save_flat({name: array for name, array in flat.items() if array is not None}, path, config=config)

    loop = program.loop(
        batches=source.batches,
        mesh=mesh,
        plan=plan,
        order=_order(spec, inputs["mixture"]),
        describe=source.describe,
        flops=functools.partial(step_operations, spec),
        keep=lambda step, values: write(context.out / "checkpoints" / str(step), values),
        evaluate=Evaluation(program, mixture=mixture, mesh=mesh) if spec.evaluation.every else None,
    )
    trained = train(loop, start, context, crew=together)
    params, history = trained.params, trained.history
    if source.feed.stats.dropped:
        print(source.feed.stats.text())
    dropped = together.agree("dropped", source.feed.stats.dropped, merge=_added_up)
    write(context.out / "model", params)
    if together.leads:
        if adapted is not None:
            lora.save(params[lora.ADAPTERS], adapted, context.out / "adapters")
        (context.out / "config.json").write_text(config.to_json() + "\n")
        (context.out / HISTORY).write_text(history_text(history))
        (context.out / OPERATIVE).write_text(operative_gin({"train": spec}))
    size = sum(int(np.prod(shape)) for shape in tree.shapes(config).values())
    return {
        "parameters": int(size),
        "steps": spec.steps,
        "published_step": trained.step,
        "examples": _examples(spec, source.feed),
        "dropped": dropped,
        "loss": history[-1]["loss"],
        "accuracy": _accuracy(history[-1]),
        **_packing_stats(history),
        **_validation(history, step=trained.step),
        **goodput(context.work),
    }
