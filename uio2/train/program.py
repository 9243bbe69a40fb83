"""What a training step of the recipe computes: loss and metrics, what they are compiled for, which parameters move.

The train stage runs it; `uio2 plan-hardware` compiles the same for devices that are not here. Nothing of it reads data
or imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from uio2.model import UnifiedIO2, multimodal_loss, packing_metrics
from uio2.model.budget import budget_of, count_items
from uio2.model.checkpoint import tree
from uio2.model.config import ModelConfig
from uio2.model.sharding import Plan
from uio2.pipeline.artifact import Artifact
from uio2.tasks.shapes import TASK
from uio2.train import lora
from uio2.train.loop import Batch, Items, Loop
from uio2.train.microbatches import split
from uio2.train.models import Start, functional, placement
from uio2.train.sharding import parameter_shardings
from uio2.train.specs import TrainSpec


@dataclasses.dataclass(frozen=True)
class Program:
    """The step of a recipe.

    Attributes:
      spec: the recipe.
      config: its model.
      module: parameters of the model -> model.
      tasks: names, by the number that a batch gives its examples; those of a batch without are not told apart.
    """

    spec: TrainSpec
    config: ModelConfig
    module: Callable[[Any], UnifiedIO2]
    tasks: tuple[str, ...] = ()

    def model(self, values: Any) -> UnifiedIO2:
        """The model of what is trained, adapters merged."""
        return self.module(values if self.spec.lora is None else lora.merged(values, self.spec.lora))

    def merged_model(self, values: Any) -> UnifiedIO2:
        """The same outside a traced function: adapters are merged by one program, their arrays where kernels are."""
        adapted = self.spec.lora
        if adapted is None:
            return self.module(values)
        return self.module(jax.jit(lambda these: lora.merged(these, adapted))(values))

    def loss(self, values: Any, batch: Mapping[str, Any], **options: Any) -> tuple[Any, dict[str, Any]]:
        """As `Loop.loss`."""
        return _loss(self.model(values), batch, spec=self.spec, tasks=len(self.tasks), **options)

    def tokens(self, values: Any, batch: Mapping[str, Any], *, static: _Static) -> dict[str, Any]:
        """As `Loop.tokens`."""
        outputs = self.model(values)(batch, **static.options)
        return {name: output.loss_mask.sum() for name, output in outputs.items()}

    def _noise(self, values: Any, steps: jax.Array) -> Any:
        assert self.spec.lora is not None
        return lora.dropped(values, self.spec.lora, step=steps, seed=self.spec.seed)

    def loop(self, **fields: Any) -> Loop:
        """The loop; `fields` say where it runs and on what."""
        parts = self.spec.step.microbatches
        return Loop.of(
            self.spec,
            loss=self.loss,
            static=functools.partial(_static, config=self.config, microbatches=parts),
            items=functools.partial(_items, config=self.config, microbatches=parts),
            tokens=self.tokens,
            groups=self.tasks,
            noise=self._noise if self.spec.lora and self.spec.lora.dropout else None,
            label="train",
            only=only(self.spec),
            frozen=frozen(self.config),
            **fields,
        )


def start_of(
    spec: TrainSpec, config: ModelConfig, *, inputs: Mapping[str, Artifact], plan: Plan, mesh: Mesh
) -> tuple[Callable[[Any], UnifiedIO2], Start]:
    """(model parameters -> model, what training starts from: these, with adapters beside them where there are any)."""
    module, shapes = functional(tree.abstract_model(config))
    sharding, adapted = placement(config, plan=plan, mesh=mesh), spec.lora

    def make() -> Any:
        from uio2.train.initial import make_model  # TensorFlow, which a step that is only compiled does without

        return functional(make_model(config, seed=spec.seed, inputs=inputs, sharding=sharding))[1]

    if adapted is None:
        return module, Start(shapes, make)

    def adapt(params: Any) -> Any:
        return lora.parameters(params, adapted, seed=spec.seed)

    both = jax.eval_shape(adapt, shapes)
    places = parameter_shardings(both, plan=plan, mesh=mesh)
    return module, Start(both, lambda: jax.jit(adapt, out_shardings=places)(make()))


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
    model: UnifiedIO2, batch: Mapping[str, Any], *, static: _Static, spec: TrainSpec, tasks: int,
    tokens: Mapping[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    group = batch.get(TASK) if tasks else None
    outputs = model(batch, **static.options)
    loss, metrics = multimodal_loss(outputs, z_loss=spec.z_loss, tokens=tokens, group=group, groups=tasks)
    placed = packing_metrics(batch, config=model.config, **static.options)
    # The metrics of a step are means over its microbatches; tokens are to be those of the whole batch.
    parts = spec.step.microbatches
    return loss, metrics | {k: v * parts if k.startswith("tokens/") else v for k, v in placed.items()}


def only(spec: TrainSpec) -> tuple[str, ...] | None:
    """Patterns of what alone is trained; None: everything."""
    return None if spec.lora is None else (f"{lora.ADAPTERS}/*", *spec.lora.train)


def frozen(config: ModelConfig) -> tuple[str, ...]:
    """Patterns of what the model gives no gradient: without these AdamW would shrink it."""
    return (*(("image_vit/*", "audio_vit/*") if config.freeze_vit else ()), "*_target/codec/*")
