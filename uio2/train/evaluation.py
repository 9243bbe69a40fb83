"""Evaluation while training: the loss of batches that are not learned from, and the tasks' metrics on a few examples.

The figures follow from the parameters alone: every time the same batches, the same examples, and the code of `predict`
and `score`. So they stand in the history, and a run that was killed writes them again as they were. All processes of a
run evaluate together: of a batch for the loss each feeds its rows, as in training; answers are decoded by all devices
alike, which costs what one device would take and asks nothing of the batch's size.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from uio2.model import UnifiedIO2, multimodal_loss
from uio2.model.budget import item_budget
from uio2.model.sharding import rows_split
from uio2.pipeline.stage import StageError
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import Mixture, without_tasks
from uio2.train.evaluation_spec import VALIDATION, EvaluationSpec
from uio2.train.program import Program
from uio2.train.sharding import Share, place_batch

Budget = tuple[tuple[str, int], ...]


class MakeScorer(Protocol):
    """What `EvaluationSpec.scorer` names."""

    def __call__(
        self, mixture: Mixture, *, tasks: Sequence[str], split: str, examples: int, batch_size: int, max_length: int
    ) -> Callable[[UnifiedIO2, Path], Mapping[str, float]]:
        """(model, an empty folder for what is predicted) -> figures by metric key; the arguments as the spec says."""


class Evaluation:
    """Figures of parameters; made once, called at every evaluation."""

    def __init__(self, program: Program, *, mixture: Mixture, mesh: Mesh) -> None:
        """Args:
          program: its recipe says what is evaluated.
          mixture: what is trained on.
          mesh: where the parameters are.

        Raises:
          StageError: no example to evaluate on, or no such scorer.
        """
        spec = program.spec.evaluation
        self._program, self._mesh, self._share = program, mesh, Share.of(mesh)
        known = [task for task in mixture.tasks if mixture.counts(task, spec.split).any()]
        if not known:
            raise StageError(
                f"EvaluationSpec.split is {spec.split!r}, in which no task of the mixture has an example; build "
                f"datasets that have it, name another split, or set EvaluationSpec.every = 0"
            )
        self._feed = _feed(mixture, known, spec=spec, seed=program.spec.seed) if spec.batches else None
        self._score = _scorer(mixture, known, spec=spec) if spec.examples else None
        self._measure = jax.jit(self._sums, static_argnums=2)

    def __call__(self, values: Any) -> dict[str, float]:
        """Figures of what is trained, by name.

        Args:
          values: parameters, with adapters where there are any.
        """
        found = self._losses(values) if self._feed else {}
        if self._score is not None:
            with tempfile.TemporaryDirectory() as folder:
                found |= self._score(self._program.merged_model(values), Path(folder))
        return {f"{VALIDATION}{name}": float(f"{value:.6g}") for name, value in found.items() if math.isfinite(value)}

    def _losses(self, values: Any) -> dict[str, float]:
        """`loss`, and by modality loss and accuracy; means over the tokens of all batches."""
        assert self._feed is not None
        spec = self._program.spec
        sums: dict[str, dict[str, float]] = {}
        for batch in itertools.islice(self._feed.batches(batch_size=spec.batch_size), spec.evaluation.batches):
            budget = tuple(item_budget(batch, config=self._program.config).items())
            mine = place_batch(self._share.take(batch), self._mesh)
            for name, one in jax.device_get(self._measure(values, mine, budget)).items():
                have = sums.setdefault(name, dict.fromkeys(one, 0.0))
                sums[name] = {key: have[key] + float(value) for key, value in one.items()}
        found = {"loss": 0.0}
        for name, have in sums.items():
            if have["tokens"]:
                found |= {f"{name}/{key}": have[key] / have["tokens"] for key in ("loss", "accuracy")}
                found["loss"] += found[f"{name}/loss"]
        return found

    def _sums(self, values: Any, batch: Mapping[str, Any], budget: Budget) -> dict[str, dict[str, jax.Array]]:
        """By modality: `loss` and `accuracy` added up over tokens, and how many these are."""
        with rows_split(self._mesh):
            outputs = self._program.model(values)(batch, budget=dict(budget))
        undivided = dict.fromkeys(outputs, jnp.float32(1.0))
        _, metrics = multimodal_loss(outputs, z_loss=self._program.spec.z_loss, tokens=undivided)
        return {
            name: {"loss": metrics[f"{name}/loss"], "accuracy": metrics[f"{name}/accuracy"],
                   "tokens": output.loss_mask.sum().astype(jnp.float32)}
            for name, output in outputs.items()
        }  # fmt: skip


def _feed(mixture: Mixture, known: Sequence[str], *, spec: EvaluationSpec, seed: int) -> Feed:
    missing = [task for task in mixture.tasks if task not in known]
    recipe = without_tasks(mixture.recipe, missing) if missing else mixture.recipe
    return Feed(dataclasses.replace(mixture, recipe=recipe), seed=seed, split=spec.split)


def _scorer(
    mixture: Mixture, known: Sequence[str], *, spec: EvaluationSpec
) -> Callable[[UnifiedIO2, Path], Mapping[str, float]]:
    for task in spec.tasks:
        if task not in known:
            raise StageError(
                f"EvaluationSpec.tasks names {task!r}; tasks of the mixture with examples in split {spec.split!r}: "
                f"{', '.join(known)}"
            )
    module, _, function = spec.scorer.partition(":")
    try:
        make: MakeScorer = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise StageError(f"EvaluationSpec.scorer is {spec.scorer!r}: {error}") from error
    return make(
        mixture, tasks=spec.tasks or known, split=spec.split, examples=spec.examples, batch_size=spec.batch_size,
        max_length=spec.max_length,
    )  # fmt: skip
