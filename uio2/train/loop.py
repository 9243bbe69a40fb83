"""The training loop: a state, a jitted step, batches by step number; killed anywhere, it goes on exactly.

A checkpoint holds parameters, optimizer state and the step; the batch of a step is a function of the step,
so nothing else is needed to continue bit for bit. `history.jsonl` holds one line per logged step and is cut
back to the restored step, so that an interrupted run leaves the same file as an undisturbed one.

All processes of a run go through the same steps: before each they agree on what its batch needs, on saving and on
stopping (`uio2.train.processes`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from uio2.model.sharding import Plan
from uio2.pipeline.stage import StageContext, StageError
from uio2.train.alarms import Describe, Watch, explained
from uio2.train.checkpoints import Checkpoints
from uio2.train.evaluation_spec import EvaluationSpec
from uio2.train.history import GROUP, HISTORY, Log, group_means, history_text
from uio2.train.meters import CHECKPOINT, EVALUATION, Meter
from uio2.train.models import Start
from uio2.train.optim.names import Trainable
from uio2.train.optimizer import make_optimizer, schedule
from uio2.train.processes import Agreed, Crew
from uio2.train.profile import Profile
from uio2.train.sharding import abstract, everywhere, place_batch, state_shardings
from uio2.train.specs import AlarmSpec, SavingSpec, StepSpec, TrainSpec, VisionTowerSpec
from uio2.train.step import initial_state, make_update, published
from uio2.train.stream import StopSignal, Stream

__all__ = ["HISTORY", "Batch", "Batches", "Interrupted", "Items", "Loop", "Trained", "history_text", "train"]

Batch = Mapping[str, np.ndarray]
Batches = Callable[[int], Iterator[Batch]]
Items = Mapping[str, tuple[int, int]]
LossFn = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
TokensFn = Callable[..., Mapping[str, jax.Array]]


class Interrupted(Agreed):
    """The run was asked to stop; its state is saved."""


@dataclasses.dataclass(frozen=True)
class Loop:
    """What to train and for how long.

    Attributes:
      loss: (parameters, batch) -> (loss, scalar metrics); with `static` it takes a keyword `static`, with `tokens` and
        several microbatches a keyword `tokens`: what to divide by in place of the batch's own counts.
      batches: step -> iterator over host batches from that step on: this process's rows.
      optimizer: an optax transformation.
      learning_rate: its schedule, for the log.
      steps, log_every, checkpoint_every: in steps.
      mesh: devices.
      label: what the progress line calls it.
      static: what of a batch the step is compiled for, hashable; few different values, or all the time goes into
        compiling. Called with a host batch; with `items` also with what all processes have of those.
      items: counts of a host batch, by name (how many are there, how many places); those of the processes add up.
      tokens: (parameters, batch) -> loss tokens by name, with `static` as for `loss`. None: microbatches weigh alike.
      trainable: which parameters are trained.
      step: microbatches, moving average, steps that are skipped.
      plan: how parameters and optimizer state are split over the mesh.
      saving, alarms: as in the recipe.
      order: a fingerprint of the order of the batches; a checkpoint of another one is refused.
      describe: step, from 1 -> the examples of its batch, for messages about it.
      groups: names of the groups whose sums the loss returns (`group/...` of `multimodal_loss`): tasks.
      flops: (shapes of a global batch, what it is compiled for) -> the model's operations of a step.
      noise: (parameters, steps done) -> parameters as the loss of the next step sees them; None: as they are.
      keep: (step, parameters) of the checkpoints that the recipe keeps beside the newest, at the end.
      evaluation: when the parameters that would be published are evaluated.
      evaluate: parameters -> figures for the log row; all processes call it. None: nothing is evaluated.
    """

    loss: LossFn
    batches: Batches
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    steps: int
    log_every: int
    checkpoint_every: int
    mesh: Mesh
    label: str
    static: Callable[..., Hashable] | None = None
    items: Callable[[Batch], Items] | None = None
    tokens: TokensFn | None = None
    trainable: Trainable = dataclasses.field(default_factory=Trainable)
    step: StepSpec = dataclasses.field(default_factory=StepSpec)
    plan: Plan = "data"
    saving: SavingSpec = dataclasses.field(default_factory=SavingSpec)
    alarms: AlarmSpec = dataclasses.field(default_factory=AlarmSpec)
    order: str = ""
    describe: Describe | None = None
    groups: tuple[str, ...] = ()
    flops: Callable[..., int] | None = None
    noise: Callable[[Any, jax.Array], Any] | None = None
    keep: Callable[[int, Any], None] | None = None
    evaluation: EvaluationSpec = dataclasses.field(default_factory=EvaluationSpec)
    evaluate: Callable[[Any], Mapping[str, float]] | None = None

    @classmethod
    def of(
        cls, spec: TrainSpec | VisionTowerSpec, *, loss: LossFn, batches: Batches, mesh: Mesh, label: str,
        only: tuple[str, ...] | None = None, frozen: tuple[str, ...] = (), **more: Any,
    ) -> Loop:  # fmt: skip
        """The loop a stage's recipe asks for.

        Args:
          only, frozen: as of `Trainable`, beside what the recipe freezes.
          more: fields.
        """
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
            trainable=trainable,
            **{name: getattr(spec, name) for name in ("step", "saving", "alarms", "evaluation") if hasattr(spec, name)},
            **more,
        )


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training hands on.

    Attributes:
      params: the parameters to publish.
      history: one row per logged step (on a process that does not lead: those of this attempt).
      step: after which the parameters were these: the last, or of the best checkpoint.
    """

    params: Any
    history: list[dict[str, float]]
    step: int


def train(loop: Loop, params: Any, context: StageContext, *, crew: Crew | None = None) -> Trained:
    """Runs to `loop.steps`, from the last checkpoint in `context.work` if there is one.

    Args:
      loop: what to train.
      params: the parameters before the first step: a tree of arrays, or a `Start`.
      context: of the stage; all processes of a run have the same folders.
      crew: the processes of the run; None for one.

    Raises:
      StageError: the loss is not finite, the data ended, the device has not enough memory.
      PeerLost: another process failed or is gone.
      Interrupted: SIGTERM arrived; the state was saved first.
    """
    crew = crew or Crew()
    with (
        explained(crew),
        Checkpoints(context.work / "checkpoints", saving=loop.saving, order=loop.order) as checkpoints,
        StopSignal() as stop,
    ):
        first = crew.agree("start", {"step": checkpoints.latest, "steps": loop.steps}, merge=_same)["step"]
        with contextlib.closing(Stream(loop, crew, first=first, stop=stop, checkpoints=checkpoints)) as stream:
            update, shapes, zeros = prepare(loop, (start := Start.of(params)), stream.head())
            state = checkpoints.restore(first, shapes) if first else _begin(loop, start, shapes, zeros)
            with (
                Log(loop, context, leads=crew.leads, first=first) as log,
                Profile.from_environment(context, leads=crew.leads) as profile,
            ):
                watch = Watch(loop.alarms, describe=loop.describe, folder=context.work, leads=crew.leads)
                meter = Meter(loop, folder=context.work, leads=crew.leads, first=first)
                for done, batch, told in meter.waiting(stream):
                    with profile.step(done, state), meter.step(done, batch, told.static):
                        state = update(state, place_batch(batch, loop.mesh), told.static)
                    meter.see(state)
                    watch.see(done, state)
                    log.step(done)
                    if done % loop.log_every == 0 or done == loop.steps:
                        watch.settle()
                        row = _means(loop, done, state["sums"], watch)
                        if loop.evaluate is not None and loop.evaluation.due(done, steps=loop.steps):
                            with meter.spending(EVALUATION):
                                row |= loop.evaluate(published(loop, state))
                        log.row(done, row, measured=meter.row)
                        state["sums"] = everywhere(zeros, loop.mesh)
                    stopping = told.stop or (crew.count == 1 and stop.asked)
                    if done == loop.steps:
                        break
                    if done % loop.checkpoint_every == 0 or told.save or stopping:
                        # The best are chosen among those at fixed steps alone, or time would have a say in it.
                        metrics = None if done % loop.checkpoint_every else log.last
                        with meter.spending(CHECKPOINT):
                            stall = checkpoints.save(done, state, metrics=metrics, wait=stopping)
                        meter.mark()
                        log.note(done, {"checkpoint_stall_s": stall})
                    if stopping:
                        raise Interrupted(f"stopped at step {done} of {loop.steps}; run again to go on")
                log.summary(checkpoints, meter)
        best = loop.steps
        if loop.saving.publish == "best":
            best = checkpoints.best(step=loop.steps, metrics=log.last or {})
        if best != loop.steps:
            del state  # another takes its place
            state = checkpoints.restore(best, shapes)
        trained = published(loop, state)
        del state
        if loop.keep is not None:
            for step in checkpoints.chosen():
                loop.keep(step, published(loop, checkpoints.restore(step, shapes)))
    return Trained(trained, log.rows, best)


def _same(said: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    if any(one != said[0] for one in said):
        raise StageError(f"the processes of this run do not mean the same: {list(said)}; they need the same recipe, "
                         f"code and scratch folder")  # fmt: skip
    return said[0]


def prepare(loop: Loop, start: Start, head: Batch) -> tuple[Callable[..., Any], dict[str, Any], dict[str, np.ndarray]]:
    """(step, shapes of the state with their places, zero sums)."""
    update, zeros = make_update(loop, start.shapes, head)
    shapes = jax.eval_shape(functools.partial(initial_state, loop, sums=zeros), start.shapes)
    shardings = state_shardings(shapes, plan=loop.plan, mesh=loop.mesh)
    if loop.mesh.size > 1:  # left to itself, XLA may choose other places for what it returns
        update = jax.jit(update, donate_argnums=0, static_argnums=2, out_shardings=shardings)
    return update, abstract(shapes, shardings), zeros


def _begin(loop: Loop, start: Start, shapes: dict[str, Any], zeros: dict[str, np.ndarray]) -> dict[str, Any]:
    """The state before the first step; nothing of it is whole on one host."""
    places = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    params = jax.device_put(start.make(), places["params"])
    begin = jax.jit(functools.partial(initial_state, loop, sums=zeros), out_shardings=places, donate_argnums=0)
    return begin(params)


def _means(loop: Loop, step: int, sums: dict[str, jax.Array], watch: Watch) -> dict[str, float]:
    skipped, since = float(sums.get("skipped", 0.0)), (step - 1) % loop.log_every + 1
    means = {k: float(v) / max(since - skipped, 1.0) for k, v in sums.items() if not k.startswith(GROUP)}
    if skipped == since or not math.isfinite(means["loss"]):
        watch.stop(step, f"the loss or its gradient is not finite in the {since} steps up to step {step}")
    means |= {"skipped": skipped} if "skipped" in sums else {}
    means |= group_means(sums, loop.groups)
    rounded = {k: float(f"{v:.6g}") for k, v in sorted(means.items())}
    return {"step": step, **rounded, "learning_rate": float(f"{float(loop.learning_rate(step - 1)):.6g}")}
