"""A lease: one runner per fingerprint at a time, on one machine.

An exclusive flock on a file, held by the runner and inherited by its child: the kernel frees it when the last
holder is dead, so nothing has to notice a crash, time out or beat. Beside it an info file says who holds it,
for messages only; the lock file itself is never removed (removing it would let two runners lock two files).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.2
REMIND_S = 30.0


class Lease:
    """Not held until `acquire` or `try_acquire`; a context manager that releases it."""

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Takes the lease if it is free; False if another process holds it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def acquire(
        self, *, waiting: Callable[[str], None] = lambda holder: None, check: Callable[[], None] = lambda: None
    ) -> None:
        """Takes the lease, waiting for its holder.

        `waiting` is called with a description of the holder when the wait begins and every 30 s; `check` at every
        look, and may raise to give up.
        """
        reminded = -REMIND_S
        while not self.try_acquire():
            check()
            if time.monotonic() - reminded > REMIND_S:
                reminded = time.monotonic()
                waiting(self.holder())
            time.sleep(POLL_S)
        self._write_info()

    @property
    def descriptor(self) -> int:
        """The locked descriptor, to hand to the child through `pass_fds`."""
        if self._descriptor is None:
            raise RuntimeError(f"lease {self.path} is not held")
        return self._descriptor

    def holder(self) -> str:
        """Who holds the lease, as text for a message."""
        try:
            info = json.loads(self.path.with_suffix(".json").read_text())
            since = time.strftime("%H:%M:%S", time.localtime(info["since"]))
            return f"process {info['pid']} on {info['host']}, since {since}"
        except (OSError, ValueError, KeyError):
            return "another process"

    def release(self) -> None:
        """Gives the lease back; a child that inherited the descriptor still holds it until it ends."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _write_info(self) -> None:
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
        temporary.replace(self.path.with_suffix(".json"))
