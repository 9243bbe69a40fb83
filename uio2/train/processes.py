"""Several processes that train as one, and what they tell each other beside the arrays.

JAX moves the arrays. What is left is small and goes through the key-value store of JAX's coordination service, which
process 0 holds: once a step every process says what its batch needs and whether it wants to stop, and all get the same
answer (1.5 ms a step between two processes, while the devices still work on the step before). So all compile the same
program, save at the same step and stop at the same step. A process whose data ends says why, and all stop with that.

A process that dies is noticed in one of three ways: its sockets close and a collective fails (at once), process 0
cannot be reached (at once), or its heartbeat stops (`SILENT_S`). Each ends the others with a message and exit status
`LOST`; the run goes on from its last checkpoint when it is started again, with any number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from uio2.pipeline.stage import StageError
from uio2.train.execution import AUTO, Execution

LOST = 75  # the exit status for "try again" (EX_TEMPFAIL)
BEAT_S = 2.0
EXIT_S = 5.0
SILENT_S = 30.0
ANSWER_S = 600  # a process may be compiling, or reading the lengths of a window
_FAILED, _BEATS = "uio2/failed", "uio2/beat/"


class PeerLost(StageError):
    """Another process of this run ended or failed."""


class Agreed(Exception):
    """An end before the end that all processes come to at the same step."""


@dataclasses.dataclass(frozen=True)
class Crew:
    """The processes of a run, seen from one of them.

    Attributes:
      count, number: how many there are and which this one is.
      client: the key-value store they share; None for one process.
    """

    count: int = 1
    number: int = 0
    client: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and metrics."""
        return self.number == 0

    def agree(self, topic: str, mine: Mapping[str, Any], *, merge: Callable[[Sequence[Any]], Any]) -> Any:
        """The same JSON value on all processes.

        Args:
          topic: what it is about; used once.
          mine: what this process has to say.
          merge: makes the answer from what all say, on process 0, in their order.

        Raises:
          PeerLost: another process has failed or gone.
        """
        if self.client is None:
            return merge([mine])
        notes, answer = f"uio2/{topic}/notes/", f"uio2/{topic}/answer"
        with self._reachable():
            self.client.key_value_set(f"{notes}{self.number}", json.dumps(mine))
            if self.leads:
                said = [json.loads(self._get(f"{notes}{number}")) for number in range(self.count)]
                self.client.key_value_set(answer, json.dumps(merge(said)))
            return json.loads(self._get(answer))

    def forget(self, topic: str) -> None:
        """Frees what was kept of a topic that all processes have the answer to."""
        if self.client is not None and self.leads:
            with self._reachable():
                self.client.key_value_delete(f"uio2/{topic}/")

    def _get(self, key: str) -> str:
        """The value of a key as soon as it has one; looks about for failures every second meanwhile."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            try:
                return self.client.blocking_key_value_get(key, 1000)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > deadline:
                    raise
            self.raise_failure()

    def raise_failure(self, *, wait_s: float = 0.0) -> None:
        """Raises `PeerLost` with what another process failed of, if one has said so (within `wait_s` seconds)."""
        if self.client is None:
            return
        deadline = time.monotonic() + wait_s
        while True:
            with self._reachable():
                found = _try_get(self.client, _FAILED)
            if found is not None:
                note = json.loads(found)
                if note["process"] != self.number:
                    raise PeerLost(_failure(note))
                return
            if time.monotonic() >= deadline:
                return
            time.sleep(0.2)

    def fail(self, message: str) -> None:
        """Tells the others why this process ends; process 0 stays until they can have read it."""
        if self.client is None:
            return
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # somebody else was first, or process 0 is gone
            self.client.key_value_set(_FAILED, json.dumps({"process": self.number, "message": message}))
            if self.leads:
                time.sleep(3 * BEAT_S)

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            raise PeerLost(_gone("process 0, which coordinates, cannot be reached", str(error))) from error


def _failure(note: Mapping[str, Any]) -> str:
    return f"process {note['process']} of this run stopped: {note['message']}"


def _gone(what: str, detail: str = "") -> str:
    reason = f" ({detail.splitlines()[0]})" if detail else ""
    return f"{what}{reason}; start all processes again, they go on from the last checkpoint"


def _try_get(client: Any, key: str) -> str | None:
    try:
        return client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


@contextlib.contextmanager
def crew(execution: Execution) -> Iterator[Crew]:
    """The processes of a run, connected while inside; must be entered before JAX has looked for devices.

    One process on CPU with a mesh of several devices has a coordinator to itself, because only then does it add up
    numbers of several devices by the same rules (gloo) as several processes do: bit for bit the same training.

    Raises:
      StageError: too late for the settings asked for.
    """
    _configure(execution)
    if execution.coordinator == AUTO:
        jax.distributed.initialize()
    elif execution.coordinator or (_on_cpu() and execution.devices > 1):
        address = execution.coordinator or f"localhost:{_free_port()}"
        jax.distributed.initialize(
            address, execution.processes, execution.process, heartbeat_timeout_seconds=int(3 * SILENT_S)
        )
    else:
        yield Crew()
        return
    found = Crew(jax.process_count(), jax.process_index(), _client() if jax.process_count() > 1 else None)
    ended = threading.Event()
    if found.client is not None:
        threading.Thread(target=_watch, args=(found, ended), name="watch", daemon=True).start()
    try:
        yield found
    except Agreed:
        _part(ended)
        raise
    except BaseException as error:
        found.fail(str(error) or type(error).__name__)
        ended.set()
        if found.client is not None:
            threading.Thread(target=_leave_later, name="leave", daemon=True).start()
        raise
    _part(ended)


def _part(ended: threading.Event) -> None:
    ended.set()
    jax.distributed.shutdown()  # all wait for each other, so that process 0 does not leave the others without a store


def _configure(execution: Execution) -> None:
    """What JAX must know before it looks for devices."""
    if not (execution.coordinator or (_on_cpu() and execution.devices > 1)):
        return
    settings: dict[str, Any] = {
        "jax_cpu_collectives_implementation": "gloo",
        "jax_enable_preemption_service": False,  # its handler would take SIGTERM from the loop's
    }
    if _on_cpu() and execution.devices:
        if execution.devices % execution.processes:
            raise StageError(
                f"a mesh of {execution.devices} devices on {execution.processes} processes; expected a multiple"
            )
        settings["jax_num_cpu_devices"] = execution.devices // execution.processes
    for name, value in settings.items():
        if getattr(jax.config, name) == value:
            continue
        try:
            jax.config.update(name, value)
        except RuntimeError as error:
            raise StageError(
                f"{name} cannot become {value} any more: {error}; start training in a new process"
            ) from error


def _on_cpu() -> bool:
    """Whether JAX will use CPUs, without making it look."""
    asked = jax.config.jax_platforms
    if asked:
        return asked.split(",")[0] == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client


def _watch(me: Crew, ended: threading.Event) -> None:
    """Ends this process when another is lost: its own thread may wait in a collective that never returns."""
    seen: dict[int, tuple[str, float]] = {}
    count = 0
    while not ended.wait(BEAT_S):
        count += 1
        try:
            me.client.key_value_set(f"{_BEATS}{me.number}", str(count), allow_overwrite=True)
            if me.leads:
                _report_silence(me, seen)
            note = _try_get(me.client, _FAILED)
            message = _failure(json.loads(note)) if note and json.loads(note)["process"] != me.number else ""
        except jax.errors.JaxRuntimeError as error:
            message = _gone("process 0, which coordinates, cannot be reached", str(error))
        # The main thread says it in good order where it can; a moment for that.
        if message and not ended.wait(BEAT_S):
            _leave(message)


def _report_silence(me: Crew, seen: dict[int, tuple[str, float]]) -> None:
    """Process 0 alone reads the heartbeats of all; `seen` holds the last of each and when it was new."""
    now = time.monotonic()
    beats = dict(me.client.key_value_dir_get(_BEATS))
    for number in range(me.count):
        beat = beats.get(f"{_BEATS}{number}", "")
        if number not in seen or seen[number][0] != beat:
            seen[number] = beat, now
        elif now - seen[number][1] > SILENT_S:
            message = _gone(f"process {number} has not been heard of for {SILENT_S:.0f} seconds")
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                me.client.key_value_set(_FAILED, json.dumps({"process": number, "message": message}))
            time.sleep(2 * BEAT_S)
            _leave(message)


def _leave_later() -> None:
    """Ends this process if it does not end by itself: JAX and orbax wait at exit for the processes that are gone."""
    time.sleep(EXIT_S)
    os._exit(LOST)


def _leave(message: str) -> None:
    print(f"stopped: {message}", file=sys.stderr, flush=True)
    os._exit(LOST)
