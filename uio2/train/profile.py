"""A trace of some steps, by JAX's profiler: where their time goes, on the host and on the devices.

UIO2_PROFILE says which (`--profile` of `uio2 train` sets it). Process 0 writes it beside the stage's log, so that it is
there whatever becomes of the run, and no part of what is published.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from uio2.pipeline.stage import StageContext
from uio2.train.execution import PROFILE, profile_window

TRACE = "trace.json.gz"


class Profile:
    """Traces a window of steps; a context manager that ends a trace which is still going on."""

    def __init__(self, window: tuple[int, int] | None, folder: Path) -> None:
        """Args:
        window: first step, from 1, and how many; None: nothing is traced.
        folder: made when the trace begins.
        """
        self._window, self._folder = window, folder
        self._left, self._begun, self._state = 0, False, None

    @classmethod
    def from_environment(cls, context: StageContext, *, leads: bool) -> Profile:
        """As the variable says; UsageError if it cannot be meant."""
        text = os.environ.get(PROFILE, "")
        folder = (context.work if context.logs is None else context.logs) / "profile"
        return cls(profile_window(text) if text and leads else None, folder)

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._left:
            self._end(None)

    @contextlib.contextmanager
    def step(self, done: int, state: Any) -> Iterator[None]:
        """Around the call of a step; `state` is what the one before left."""
        if self._window is None:
            yield
            return
        if not self._begun and done >= self._window[0]:
            self._begin(done, state)
        elif self._left:
            self._left -= 1
            if not self._left:
                self._end(state)
        if not self._left:
            yield
            return
        with jax.profiler.StepTraceAnnotation("train", step_num=done):
            yield

    def _begin(self, done: int, state: Any) -> None:
        assert self._window is not None
        self._begun, self._left = True, self._window[1]
        if done > self._window[0]:
            print(f"step {self._window[0]} is behind this run already: tracing from step {done} on")
        jax.block_until_ready(state)  # so that the trace begins with this step
        self._folder.mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(str(self._folder))

    def _end(self, state: Any) -> None:
        self._left = 0
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        found = sorted(self._folder.rglob(f"*{TRACE}"))
        place = found[-1] if found else self._folder
        print(f"trace of {self._window[1] if self._window else 0} steps: {place}\n"
              f"  open it at https://ui.perfetto.dev (it stays on your machine), or `xprof {self._folder}` for all of "
              f"XLA's views")  # fmt: skip
