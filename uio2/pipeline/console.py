"""What a person sees while a pipeline runs: whole lines with a stage prefix, on stderr.

stdout stays free for results (`--json`). Progress is one line per five seconds with rate and remaining time, so that
it reads the same on a terminal, in a log file and in CI; a stage that ends within five seconds prints none.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

EVERY_S = 5.0
SILENT_S = 30.0  # a running stage that has said nothing for this long gets a line of its own
COLOURS = (36, 33, 32, 35, 34, 31)


class Console:
    """Prints lines; safe from several threads."""

    def __init__(self, *, stream: TextIO | None = None, quiet: bool = False):
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._lock = threading.Lock()
        self._colours: dict[str, int] = {}
        self._listeners: dict[str, Callable[[str], None]] = {}
        self._watchers: dict[str, Callable[[int, int, str], None]] = {}

    def listen(self, prefix: str, listener: Callable[[str], None] | None) -> None:
        """Passes the lines of one prefix on, to a log page for example; None ends it."""
        if listener is None:
            self._listeners.pop(prefix, None)
        else:
            self._listeners[prefix] = listener

    def watch(self, prefix: str, watcher: Callable[[int, int, str], None] | None) -> None:
        """Passes progress `(done, total, text)` of one prefix on, at most once in five seconds; None ends it."""
        if watcher is None:
            self._watchers.pop(prefix, None)
        else:
            self._watchers[prefix] = watcher

    def progress(self, prefix: str, done: int, total: int, text: str) -> None:
        """Tells whoever watches the prefix."""
        watcher = self._watchers.get(prefix)
        if watcher:
            watcher(done, total, text)

    def line(self, prefix: str, text: str) -> None:
        """Prints `prefix | text`."""
        listener = self._listeners.get(prefix)
        if listener:
            listener(text)
        if self._quiet:
            return
        with self._lock:
            shown = f"{prefix:<14}"
            if self._stream.isatty():
                colour = self._colours.setdefault(prefix, COLOURS[len(self._colours) % len(COLOURS)])
                shown = f"\x1b[{colour}m{shown}\x1b[0m"
            try:
                print(f"{shown}| {text}", file=self._stream, flush=True)
            except BrokenPipeError:
                self._quiet = True  # the reader of a pipe went away; the run goes on


class Progress:
    """Turns `(done, total, text)` reports into at most one line per five seconds."""

    def __init__(self, console: Console, prefix: str):
        self._console = console
        self._prefix = prefix
        self._started = self._printed = time.monotonic()
        self._text = ""
        self._first = (0, self._started)
        self._latest: tuple[int, int, str] | None = None
        self._passed = self._started

    def report(self, done: int, total: int, text: str) -> None:
        """Notes a report and prints it if one is due."""
        now = time.monotonic()
        self._latest = (done, total, text)
        if text != self._text or done < self._first[0]:
            self._text = text
            self._first = (done, now)
        if now - self._printed >= EVERY_S:
            self._printed = now
            self._console.line(self._prefix, progress_text(done, total, text, first=self._first, now=now))

    def heartbeat(self) -> None:
        """Prints how long the stage has run, if nothing was printed for a while, and passes progress on.

        The runner's own thread calls this, so a watcher may use what belongs to that thread.
        """
        now = time.monotonic()
        if self._latest and now - self._passed >= EVERY_S:
            self._passed = now
            self._console.progress(self._prefix, *self._latest)
        if now - self._printed >= SILENT_S:
            self._printed = now
            self._console.line(self._prefix, f"running for {duration(now - self._started)}")

    def spoke(self) -> None:
        """The stage printed something itself."""
        self._printed = max(self._printed, time.monotonic() - EVERY_S + 1)


def progress_text(done: int, total: int, text: str, *, first: tuple[int, float], now: float) -> str:
    """`text 120/400 (30%), 11.9/s, 23 s left`; without a total, count and rate alone."""
    rate = (done - first[0]) / max(now - first[1], 1e-9)
    parts = [f"{text} {done}/{total} ({done / total:.0%})" if total else f"{text} {done}"]
    if rate > 0:
        parts.append(f"{rate:.3g}/s")
        if total > done:
            parts.append(f"{duration((total - done) / rate)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`8.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
