"""Checkpoints of a running training: saved while it goes on, whole or invisible, kept by a policy.

A checkpoint is the state of the loop (parameters, optimizer, sums of the metrics) under its step, every process writing
what its devices hold. The batch of a step, and every random choice in it, is a function of the step, so the step is
the position in the data; beside it lies which order of data that is, and another order is refused. Orbax writes into a
folder of another name and renames it when all is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from uio2.pipeline.stage import StageError
from uio2.train.evaluation_spec import TASK
from uio2.train.processes import Agreed
from uio2.train.specs import SavingSpec

STATE, POSITION = "state", "position"


class Checkpoints:
    """The checkpoints in one folder; a context manager that waits for the last save when it is left.

    Attributes:
      stalls: seconds the loop stood still in each save so far.
    """

    def __init__(self, path: Path, *, saving: SavingSpec, order: str = "") -> None:
        """Args:
        path: the folder; made if it is not there.
        saving: when and what to keep.
        order: a fingerprint of the order of data.
        """
        self._path, self._saving, self._order = path.absolute(), saving, order
        self._manager = ocp.CheckpointManager(
            self._path,
            item_names=(STATE, POSITION),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_policy(saving),
                # The policy decides; without this orbax does not write the metrics it decides by.
                best_fn=_score(saving) if saving.keep_best else None,
            ),
        )
        self._saved_at = time.monotonic()
        self.stalls: list[float] = []

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Closing waits for the other processes too, one of which may be what the exception is about.
        if kind is None or issubclass(kind, Agreed) or jax.process_count() == 1:
            self._manager.close()

    @property
    def latest(self) -> int:
        """The step of the last whole checkpoint, 0 if there is none."""
        return self._manager.latest_step() or 0

    @property
    def kept(self) -> list[int]:
        """The steps whose checkpoints are there."""
        return sorted(self._manager.all_steps())

    def chosen(self) -> list[int]:
        """Of `kept`, the steps the recipe asks for beside the newest: at multiples, and the best."""
        self._manager.wait_until_finished()
        saving = self._saving
        every = [step for step in self.kept if saving.keep_every and step % saving.keep_every == 0]
        return sorted({*every, *_best(self._scores(), saving)[: saving.keep_best]})

    def best(self, *, step: int, metrics: Mapping[str, float]) -> int:
        """The step of the best of `kept`, or `step`, which has these metrics and is not saved; it wins where equal.

        Raises:
          StageError: the metric it goes by is not among them.
        """
        self._manager.wait_until_finished()
        scores = self._scores()
        if self._saving.best_metric in metrics:
            scores = {step: metrics[self._saving.best_metric]} | scores
        elif not scores:
            raise _unknown(self._saving, metrics)
        return _best(scores, self._saving)[0]

    def _scores(self) -> dict[int, float]:
        name = self._saving.best_metric
        return {step: found[name] for step in self.kept if (found := self._manager.metrics(step))}

    def due(self) -> bool:
        """Whether so many minutes have passed since the last save that it is time for another."""
        minutes = self._saving.minutes
        return minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes

    def save(self, step: int, state: Any, *, metrics: Mapping[str, float] | None = None, wait: bool = False) -> float:
        """Saves in the background; returns how many seconds that held up the caller.

        Args:
          step: steps done.
          state: arrays.
          metrics: what the best checkpoints are chosen by.
          wait: returns when all is on disk.

        Raises:
          StageError: the metric that the best are chosen by is not among them, and never was.
        """
        began = time.monotonic()
        if metrics and self._saving.keep_best and self._saving.best_metric not in metrics:
            # A task may have had no example since the last row, or a figure may be no number this time.
            self._manager.wait_until_finished()
            if not (self._saving.best_metric.startswith(TASK) or self._scores()):
                raise _unknown(self._saving, metrics)
            metrics = None
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), position=ocp.args.JsonSave({"step": step, "order": self._order})
            ),
            metrics=dict(metrics) if metrics else None,
        )
        if wait:
            self._manager.wait_until_finished()
        self._saved_at = time.monotonic()
        self.stalls.append(self._saved_at - began)
        return self.stalls[-1]

    def restore(self, step: int, state: Any) -> Any:
        """The state of a step.

        Args:
          step: one of `kept`.
          state: shapes, dtypes and shardings; every device reads its own part.

        Raises:
          StageError: it was trained on data in another order.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(state), position=ocp.args.JsonRestore())
        found = self._manager.restore(step, args=args)
        if found.position["order"] != self._order:
            raise StageError(
                f"the checkpoint of step {step} in {self._path} was trained on other data, or on the same in another "
                f"order (mixture, seed, batch_size or packing); remove the folder to start anew"
            )
        return found.state


def _best(scores: Mapping[int, float], saving: SavingSpec) -> list[int]:
    """Steps, the best first; of equals the order they come in."""
    return sorted(scores, key=lambda step: scores[step], reverse=not saving.best_is_least)


def _unknown(saving: SavingSpec, metrics: Mapping[str, float]) -> StageError:
    known = ", ".join(sorted(set(metrics) - {"step"}))
    return StageError(f"SavingSpec.best_metric is {saving.best_metric!r}; the log has {known}")


def _score(saving: SavingSpec) -> Callable[[Mapping[str, float]], float]:
    return lambda metrics: metrics[saving.best_metric]


def _policy(saving: SavingSpec) -> keep.PreservationPolicy:
    policies: list[keep.PreservationPolicy] = [keep.LatestN(saving.keep_last)]
    if saving.keep_every:
        policies.append(keep.EveryNSteps(saving.keep_every))
    if saving.keep_best:
        policies.append(
            keep.BestN(
                get_metric_fn=_score(saving),
                reverse=saving.best_is_least,
                n=saving.keep_best,
                keep_checkpoints_without_metrics=False,
            )
        )
    return keep.AnyPreservationPolicy(policies)
