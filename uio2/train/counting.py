"""Model operations of a step of a recipe, from shapes alone (`uio2.model.flops` says what counts)."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import jax

from uio2.model import flops
from uio2.model.checkpoint import tree
from uio2.model.config import ModelConfig
from uio2.train import lora
from uio2.train.models import functional
from uio2.train.optim.names import Trainable
from uio2.train.program import Program, frozen, only
from uio2.train.specs import TrainSpec


def step_operations(spec: TrainSpec, batch: Mapping[str, Any], static: Hashable) -> int:
    """Of loss and gradient of all microbatches; what is computed twice to save memory counts once.

    Args:
      spec: the recipe.
      batch: a global batch, or its shapes.
      static: what the step is compiled for, as `Loop.static` says it of the batch.
    """
    config = dataclasses.replace(ModelConfig.from_dict(spec.model_config), remat="none")
    module, params = functional(tree.abstract_model(config))
    if (adapted := spec.lora) is not None:
        params = jax.eval_shape(lambda values: lora.parameters(values, adapted, seed=spec.seed), params)
    program, parts = Program(spec, config, module), spec.step.microbatches
    leaves, structure = jax.tree.flatten(params)
    trainable = Trainable(only=only(spec), frozen=(*frozen(config), *spec.optimizer.freeze))
    mask = trainable.mask(params)

    def gradient(trained: list[Any], everything: list[Any], part: Any) -> Any:
        def loss(these: list[Any]) -> Any:
            values = iter(these)
            whole = [next(values) if mine else other for mine, other in zip(mask, everything, strict=True)]
            return program.loss(jax.tree.unflatten(structure, whole), part, static=static)[0]

        return jax.grad(loss)(trained)

    part = {k: jax.ShapeDtypeStruct((v.shape[0] // parts, *v.shape[1:]), v.dtype) for k, v in batch.items()}
    mine = [leaf for leaf, trained in zip(leaves, mask, strict=True) if trained]
    return parts * flops.count(gradient, mine, leaves, part)
