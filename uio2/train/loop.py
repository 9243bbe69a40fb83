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
import json
import math
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from uio2.model.sharding import Plan
from uio2.pipeline.atomic import write_text
from uio2.pipeline.stage import StageContext, StageError
from uio2.train.alarms import Describe, Watch, explained
from uio2.train.checkpoints import Checkpoints
from uio2.train.models import Start
from uio2.train.optim.names import Trainable
from uio2.train.optimizer import make_optimizer, schedule
from uio2.train.processes import Agreed, Crew
from uio2.train.sharding import Share, abstract, everywhere, place_batch, state_shardings
from uio2.train.specs import AlarmSpec, SavingSpec, StepSpec, TrainSpec, VisionTowerSpec
from uio2.train.step import initial_state, make_update, published

HISTORY = "history.jsonl"
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
            **{name: getattr(spec, name) for name in ("step", "saving", "alarms") if hasattr(spec, name)},
            **more,
        )


def train(
    loop: Loop, params: Any, context: StageContext, *, crew: Crew | None = None
) -> tuple[Any, list[dict[str, float]]]:
    """Runs to `loop.steps`, from the last checkpoint in `context.work` if there is one.

    Args:
      loop: what to train.
      params: the parameters before the first step: a tree of arrays, or a `Start`.
      context: of the stage; all processes of a run have the same folders.
      crew: the processes of the run; None for one.

    Returns:
      The trained parameters and the history, one row per logged step (on a process that does not lead: those of this
      attempt).

    Raises:
      StageError: the loss is not finite, the data ended, the device has not enough memory.
      PeerLost: another process failed or is gone.
      Interrupted: SIGTERM arrived; the state was saved first.
    """
    crew = crew or Crew()
    with (
        explained(crew),
        Checkpoints(context.work / "checkpoints", saving=loop.saving, order=loop.order) as checkpoints,
        _StopSignal() as stop,
    ):
        first = crew.agree("start", {"step": checkpoints.latest, "steps": loop.steps}, merge=_same)["step"]
        with contextlib.closing(_Stream(loop, crew, first=first, stop=stop, checkpoints=checkpoints)) as stream:
            update, state, zeros = _prepare(loop, Start.of(params), stream.head(), checkpoints, first=first)
            with _Log(loop, context, leads=crew.leads, first=first) as log:
                watch = Watch(loop.alarms, describe=loop.describe, folder=context.work, leads=crew.leads)
                for done, batch, told in stream:
                    state = update(state, place_batch(batch, loop.mesh), told.static)
                    watch.see(done, state)
                    if done % loop.log_every == 0 or done == loop.steps:
                        watch.settle()
                        log.row(done, _means(loop, done, state["sums"], watch))
                        state["sums"] = everywhere(zeros, loop.mesh)
                    stopping = told.stop or (crew.count == 1 and stop.asked)
                    if done == loop.steps:
                        break
                    if done % loop.checkpoint_every == 0 or told.save or stopping:
                        stall = checkpoints.save(done, state, metrics=log.last, wait=stopping)
                        log.note(done, {"checkpoint_stall_s": stall})
                    if stopping:
                        raise Interrupted(f"stopped at step {done} of {loop.steps}; run again to go on")
            log.summary(checkpoints)
    return published(loop, state), log.rows


def _same(said: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    if any(one != said[0] for one in said):
        raise StageError(f"the processes of this run do not mean the same: {list(said)}; they need the same recipe, "
                         f"code and scratch folder")  # fmt: skip
    return said[0]


def _prepare(
    loop: Loop, start: Start, head: Batch, checkpoints: Checkpoints, *, first: int
) -> tuple[Callable[..., Any], dict[str, Any], dict[str, np.ndarray]]:
    """(step, state at `first`, zero sums); nothing is whole on one host."""
    update, zeros = make_update(loop, start.shapes, head)

    def begin(params: Any) -> dict[str, Any]:
        return initial_state(loop, params, sums=zeros)

    shapes = jax.eval_shape(begin, start.shapes)
    shardings = state_shardings(shapes, plan=loop.plan, mesh=loop.mesh)
    if loop.mesh.size > 1:  # left to itself, XLA may choose other places for what it returns
        update = jax.jit(update, donate_argnums=0, static_argnums=2, out_shardings=shardings)
    if first:
        return update, checkpoints.restore(first, abstract(shapes, shardings)), zeros
    params = jax.device_put(start.make(), shardings["params"])
    return update, jax.jit(begin, out_shardings=shardings, donate_argnums=0)(params), zeros


@dataclasses.dataclass(frozen=True)
class _Told:
    """What all processes agreed on before a step: what it is compiled for, and what to do after it."""

    static: Hashable
    save: bool
    stop: bool


class _Stream:
    """Iterates over (steps done after it, host batch, what was agreed on it)."""

    def __init__(self, loop: Loop, crew: Crew, *, first: int, stop: _StopSignal, checkpoints: Checkpoints) -> None:
        self._loop, self._crew, self._stop, self._checkpoints = loop, crew, stop, checkpoints
        self._batches = loop.batches(first)
        self._share = Share.of(loop.mesh).number if crew.count > 1 else 0
        self._done, self._head = first, None

    def head(self) -> Batch:
        """The first batch, which is still to come."""
        batch, failed = self._take()
        self._crew.agree("head", {"failed": failed}, merge=_failing)
        assert batch is not None
        self._head = batch
        return batch

    def __iter__(self) -> Iterator[tuple[int, Batch, _Told]]:
        for done in range(self._done + 1, self._loop.steps + 1):
            batch, failed = (self._head, "") if self._head is not None else self._take()
            self._done, self._head = done, None
            told = self._agree(batch, failed)
            assert batch is not None
            yield done, batch, told

    def _take(self) -> tuple[Batch | None, str]:
        """The next batch of this process, or why there is none; alone it raises instead."""
        try:
            return next(self._batches), ""
        except StopIteration:
            text = f"the data ended after step {self._done} of {self._loop.steps}; expected batches without end"
            if self._crew.count == 1:
                raise StageError(text) from None
            return None, text
        except Exception as error:  # the others must hear of it, or they would wait for this process for ever
            if self._crew.count == 1:
                raise
            return None, f"{type(error).__name__}: {error}"

    def _agree(self, batch: Batch | None, failed: str) -> _Told:
        loop, topic = self._loop, f"step/{self._done}"
        items = loop.items(batch) if loop.items is not None and batch is not None else {}
        mine = {
            "failed": failed, "part": self._share, "items": items, "save": self._checkpoints.due(),
            "stop": self._stop.asked,
        }  # fmt: skip
        said = self._crew.agree(topic, mine, merge=_together)
        self._crew.forget(f"step/{self._done - 1}")
        if loop.static is None:
            static = None
        else:
            static = loop.static(batch, items=said["items"]) if loop.items is not None else loop.static(batch)
        return _Told(static, said["save"], said["stop"])

    def close(self) -> None:
        """Ends the iterator of batches, so that its threads end."""
        if hasattr(self._batches, "close"):
            self._batches.close()


def _failing(said: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    for number, one in enumerate(said):
        if one["failed"]:
            raise StageError(f"the data of process {number} stopped: {one['failed']}")
    return said[0]


def _together(said: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Items of all parts added up; process 0 knows when it is time to save, any may ask to stop."""
    _failing(said)
    items: dict[str, tuple[int, int]] = {}
    for part in {one["part"]: one["items"] for one in said}.values():
        for name, (present, places) in part.items():
            before = items.get(name, (0, 0))
            items[name] = before[0] + present, before[1] + places
    return {"items": items, "save": said[0]["save"], "stop": any(one["stop"] for one in said)}


class _Log:
    """The rows of the history, where they go, and what else is said of a run."""

    def __init__(self, loop: Loop, context: StageContext, *, leads: bool, first: int) -> None:
        self._loop, self._context, self._leads = loop, context, leads
        self.rows: list[dict[str, float]] = []
        self._file: Any = None
        if leads:
            path = context.work / HISTORY
            self.rows = _read_history(path, up_to=first)
            write_text(path, history_text(self.rows))
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def last(self) -> dict[str, float] | None:
        """The last row, if there is one."""
        return self.rows[-1] if self.rows else None

    def row(self, done: int, row: dict[str, float]) -> None:
        """One more row."""
        self.rows.append(row)
        if self._leads:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            self._context.metric(done, {k: v for k, v in row.items() if k != "step"})
            self._context.progress(done, self._loop.steps, f"{self._loop.label} loss {row['loss']:.4f}")

    def note(self, done: int, values: Mapping[str, float]) -> None:
        """Figures that are measured and so no part of the history."""
        if self._leads:
            self._context.metric(done, values)

    def summary(self, checkpoints: Checkpoints) -> None:
        """Says at the end what checkpoints cost."""
        stalls = checkpoints.stalls
        if stalls and self._leads:
            print(f"{len(stalls)} checkpoints held training up for {sum(stalls) / len(stalls):.2f} s each, "
                  f"at most {max(stalls):.2f} s")  # fmt: skip


def _means(loop: Loop, step: int, sums: dict[str, jax.Array], watch: Watch) -> dict[str, float]:
    skipped, since = float(sums.get("skipped", 0.0)), (step - 1) % loop.log_every + 1
    means = {k: float(v) / max(since - skipped, 1.0) for k, v in sums.items()}
    if skipped == since or not math.isfinite(means["loss"]):
        watch.stop(step, f"the loss or its gradient is not finite in the {since} steps up to step {step}")
    means |= {"skipped": skipped} if "skipped" in sums else {}
    rounded = {k: float(f"{v:.6g}") for k, v in sorted(means.items())}
    return {"step": step, **rounded, "learning_rate": float(f"{float(loop.learning_rate(step - 1)):.6g}")}


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
