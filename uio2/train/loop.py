"""The training loop: a state, a jitted step, batches by step number; killed anywhere, it goes on exactly.

A checkpoint holds parameters, optimizer state and the step; the batch of a step is a function of the step,
so nothing else is needed to continue bit for bit. `history.jsonl` holds one line per logged step and is cut
back to the restored step, so that an interrupted run leaves the same file as an undisturbed one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageContext, StageError
from uio2.train.optim.names import Trainable
from uio2.train.optimizer import make_optimizer, schedule
from uio2.train.sharding import place_batch, replicated
from uio2.train.specs import StepSpec, TrainSpec, VisionTowerSpec
from uio2.train.step import initial_state, make_update, published

HISTORY = "history.jsonl"
Batch = Mapping[str, np.ndarray]
LossFn = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
TokensFn = Callable[..., Mapping[str, jax.Array]]


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


@dataclasses.dataclass(frozen=True)
class Loop:
    """What to train and for how long.

    Attributes:
      loss: (parameters, batch) -> (loss, scalar metrics); with `static` it takes a keyword `static`, with `tokens` and
        several microbatches a keyword `tokens`: what to divide by in place of the batch's own counts.
      batches: step -> iterator over host batches from that step on.
      optimizer: an optax transformation.
      learning_rate: its schedule, for the log.
      steps, log_every, checkpoint_every: in steps.
      mesh: devices.
      label: what the progress line calls it.
      static: what of a host batch the step is compiled for, hashable; few different values, or all the time goes
        into compiling.
      tokens: (parameters, batch) -> loss tokens by name, with `static` as for `loss`. None: microbatches weigh alike.
      trainable: which parameters are trained.
      step: microbatches, moving average, steps that are skipped.
    """

    loss: LossFn
    batches: Callable[[int], Iterator[Batch]]
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    steps: int
    log_every: int
    checkpoint_every: int
    mesh: Mesh
    label: str
    static: Callable[[Batch], Hashable] | None = None
    tokens: TokensFn | None = None
    trainable: Trainable = dataclasses.field(default_factory=Trainable)
    step: StepSpec = dataclasses.field(default_factory=StepSpec)

    @classmethod
    def of(
        cls, spec: TrainSpec | VisionTowerSpec, *, loss: LossFn, batches: Callable[[int], Iterator[Batch]], mesh: Mesh,
        label: str, only: tuple[str, ...] | None = None, frozen: tuple[str, ...] = (),
        static: Callable[[Batch], Hashable] | None = None, tokens: TokensFn | None = None,
    ) -> Loop:  # fmt: skip
        """The loop a stage's recipe asks for; `only` and `frozen` as of `Trainable`, beside what the recipe freezes."""
        trainable = Trainable(only=only, frozen=(*frozen, *spec.optimizer.freeze))
        return cls(
            loss=loss,
            batches=batches,
            optimizer=make_optimizer(spec.optimizer, steps=spec.steps, trainable=trainable),
            learning_rate=schedule(spec.optimizer, steps=spec.steps),
            steps=spec.steps,
            log_every=spec.log_every,
            checkpoint_every=spec.checkpoint_every,
            mesh=mesh,
            label=label,
            static=static,
            tokens=tokens,
            trainable=trainable,
            step=spec.step if isinstance(spec, TrainSpec) else StepSpec(),
        )


def train(loop: Loop, params: Any, context: StageContext) -> tuple[Any, list[dict[str, float]]]:
    """Runs to `loop.steps`, from the last checkpoint in `context.work` if there is one.

    Returns:
      The trained parameters and the history, one row per logged step.

    Raises:
      StageError: the loss is not finite.
      Interrupted: SIGTERM arrived; the state was saved first.
    """
    history_path = context.work / HISTORY
    with _manager(context.work / "checkpoints") as manager, _StopSignal() as stop:
        first = manager.latest_step() or 0
        batches = loop.batches(first)
        head = next(batches)
        update, zeros = make_update(loop, params, head)
        state = jax.device_put(initial_state(loop, params, sums=zeros), replicated(loop.mesh))
        if first:
            state = manager.restore(first, args=ocp.args.StandardRestore(state))
        history = _read_history(history_path, up_to=first)
        write_text(history_path, history_text(history))
        with history_path.open("a", encoding="utf-8") as log:
            for done, batch in zip(range(first + 1, loop.steps + 1), itertools.chain([head], batches), strict=False):
                state = update(state, place_batch(batch, loop.mesh), loop.static(batch) if loop.static else None)
                if done % loop.log_every == 0 or done == loop.steps:
                    row = _row(loop, done, state["sums"])
                    state["sums"] = jax.device_put(zeros, replicated(loop.mesh))
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    history.append(row)
                    context.metric(done, {k: v for k, v in row.items() if k != "step"})
                    context.progress(done, loop.steps, f"{loop.label} loss {row['loss']:.4f}")
                if (done % loop.checkpoint_every == 0 and done < loop.steps) or stop.asked:
                    manager.save(done, args=ocp.args.StandardSave(state))
                    if stop.asked:
                        manager.wait_until_finished()
                        raise Interrupted(f"stopped at step {done} of {loop.steps}; run again to go on")
    return published(loop, state), history


def _row(loop: Loop, step: int, sums: dict[str, jax.Array]) -> dict[str, float]:
    skipped, since = float(sums.get("skipped", 0.0)), (step - 1) % loop.log_every + 1
    means = {k: float(v) / max(since - skipped, 1.0) for k, v in sums.items()}
    if skipped == since or not math.isfinite(means["loss"]):
        raise StageError(
            f"the loss or its gradient is not finite in the {since} steps up to {step}; lower the learning rate or "
            f"lengthen the warm-up"
        )
    means |= {"skipped": skipped} if "skipped" in sums else {}
    rounded = {k: float(f"{v:.6g}") for k, v in sorted(means.items())}
    return {"step": step, **rounded, "learning_rate": float(f"{float(loop.learning_rate(step - 1)):.6g}")}


def _manager(path: Path) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(path.absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=2))


def _read_history(path: Path, *, up_to: int) -> list[dict[str, float]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if not line.endswith("}"):
            break  # the line a kill cut short
        rows.append(json.loads(line))
    return [row for row in rows if row["step"] <= up_to]


def history_text(rows: list[dict[str, float]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


class _StopSignal:
    """Remembers SIGTERM instead of dying of it; only the main thread may listen."""

    def __init__(self) -> None:
        self.asked = False
        self._old: Any = None

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def __enter__(self) -> _StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)
