"""The steps of a loop as all processes of a run see them: each with its batch and with what was agreed on it.

Which process has which part of a batch, and whether one of them was told to stop, is known to each alone; a step needs
that all do the same. One exchange a step settles it (`uio2.train.processes`).
"""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from uio2.pipeline.stage import StageError
from uio2.train.checkpoints import Checkpoints
from uio2.train.processes import Crew
from uio2.train.sharding import Share

if TYPE_CHECKING:
    from uio2.train.loop import Batch, Loop


@dataclasses.dataclass(frozen=True)
class Told:
    """What all processes agreed on before a step: what it is compiled for, and what to do after it."""

    static: Hashable
    save: bool
    stop: bool


class Stream:
    """Iterates over (steps done after it, host batch, what was agreed on it)."""

    def __init__(self, loop: Loop, crew: Crew, *, first: int, stop: StopSignal, checkpoints: Checkpoints) -> None:
        self._loop, self._crew, self._stop, self._checkpoints = loop, crew, stop, checkpoints
        self._batches = loop.batches(first)
        self._share = Share.of(loop.mesh).number if crew.count > 1 else 0
        self._done = first
        self._head: Batch | None = None

    def head(self) -> Batch:
        """The first batch, which is still to come."""
        batch, failed = self._take()
        self._crew.agree("head", {"failed": failed}, merge=_failing)
        assert batch is not None
        self._head = batch
        return batch

    def __iter__(self) -> Iterator[tuple[int, Batch, Told]]:
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

    def _agree(self, batch: Batch | None, failed: str) -> Told:
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
        return Told(static, said["save"], said["stop"])

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


class StopSignal:
    """Remembers SIGTERM instead of dying of it; only the main thread may listen."""

    def __init__(self) -> None:
        self.asked = False
        self._old: Any = None

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)
