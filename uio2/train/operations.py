"""Model operations of the steps of a run, counted beside it.

A step is traced once for each shape it takes and counted by `uio2.model.flops`, in a thread of its own: seconds that no
step waits for. Rows of the log with a step that is not counted yet go without.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from uio2.train.sharding import Share

Shapes = Mapping[str, jax.ShapeDtypeStruct]
Count = Callable[[Shapes, Hashable], int]


class Operations:
    """Adds up the operations of steps."""

    def __init__(self, count: Count | None, mesh: Mesh) -> None:
        """Args:
        count: (shapes of a global batch, what it is compiled for) -> operations of a step; None: nothing is counted.
        mesh: how batches are split over processes.
        """
        self._count, self._shares = count, Share.of(mesh).count if count else 1
        self._thread = ThreadPoolExecutor(1, "operations")
        self._known: dict[Hashable, Future[int]] = {}
        self._steps: collections.Counter[Hashable] = collections.Counter()

    def add(self, program: Hashable, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]], static: Hashable) -> None:
        """One more step.

        Args:
          program: what tells it from others that differ in their count.
          shapes: of this process's batch.
          static: what it is compiled for.
        """
        if self._count is None:
            return
        if program not in self._known:
            whole = {key: jax.ShapeDtypeStruct((shape[0] * self._shares, *shape[1:]), dtype)
                     for key, (shape, dtype) in shapes.items()}  # fmt: skip
            self._known[program] = self._thread.submit(self._count, whole, static)
        self._steps[program] += 1

    def since(self) -> float:
        """Operations of the steps since this was asked last; 0 if one of them is not counted yet."""
        steps, self._steps = self._steps, collections.Counter()
        if not all((found := self._known[key]).done() and not found.exception() for key in steps):
            return 0.0
        return float(sum(count * self._known[key].result() for key, count in steps.items()))
