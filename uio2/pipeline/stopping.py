"""Ctrl-C and SIGTERM: the first ends the running stages in good order, the second leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from uio2.pipeline.runner import Runner

EXIT = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stoppable(runner: Runner) -> Iterator[None]:
    """While inside, a signal cancels the runner and raises KeyboardInterrupt in the main thread.

    A second signal exits at once; the children die with this process and the next run repairs what they left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            os._exit(EXIT)
        asked = True
        runner.cancel()
        runner.console.line("uio2", f"{signal.Signals(number).name}: stopping the running stage")
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
