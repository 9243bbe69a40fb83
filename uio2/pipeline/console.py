"""What a person sees while a pipeline runs: whole lines with a stage prefix, on stderr.

stdout stays free for results (`--json`). On a terminal the last line is a bar of the stage that reported last, with
rate and remaining time. Elsewhere, in CI for example, and in the stage's log, progress is a line per interval: five
seconds at first, a minute when a stage has run for ten. A stage that ends within five seconds prints none.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

EVERY_S = 5.0
SHARE = 0.1  # of the time a stage has run: the interval between two of its lines, up to a minute
MOST_S = 60.0
WINDOW_S = 60.0  # the rate is that of so much time, so that what was slow at the beginning is forgotten
BAR = 20
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
        self._bars: dict[str, str] = {}
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb" and not quiet

    @property
    def live(self) -> bool:
        """Whether there is a terminal to draw bars on."""
        return self._live and not self._quiet

    def bar(self, prefix: str, text: str) -> None:
        """Draws the last line anew; with an empty text the bar of the prefix goes."""
        if not self.live:
            return
        with self._lock:
            self._bars.pop(prefix, None)
            if text:
                self._bars[prefix] = text
            self._write(f"\r\x1b[K{self._last_line()}")

    def _last_line(self) -> str:
        if not self._bars:
            return ""
        prefix, text = next(reversed(self._bars.items()))
        width = shutil.get_terminal_size().columns - 1
        return self._shown(prefix) + f"| {text}"[: max(width - max(len(prefix), 14), 0)]

    def _shown(self, prefix: str) -> str:
        shown = f"{prefix:<14}"
        if not self._stream.isatty():
            return shown
        colour = self._colours.setdefault(prefix, COLOURS[len(self._colours) % len(COLOURS)])
        return f"\x1b[{colour}m{shown}\x1b[0m"

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            self._quiet = True  # the reader of a pipe went away; the run goes on

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
            above, below = ("\r\x1b[K", self._last_line()) if self._bars else ("", "")
            self._write(f"{above}{self._shown(prefix)}| {text}\n{below}")


class Progress:
    """Turns `(done, total, text)` reports into a bar, or into at most one line per interval."""

    def __init__(self, console: Console, prefix: str, *, log: Path | None = None):
        """`log` is a file that gets the lines too."""
        self._console = console
        self._prefix = prefix
        self._log = log
        self._started = self._printed = self._noted = time.monotonic()
        self._phase: tuple[str, int] | None = None
        self._recent: collections.deque[tuple[int, float]] = collections.deque()
        self._latest: tuple[int, int, str] | None = None
        self._passed = self._started

    def report(self, done: int, total: int, text: str) -> None:
        """Notes a report and shows it if that is due."""
        now = time.monotonic()
        self._latest = (done, total, text)
        phase = (re.sub(r"[-+]?\d[\d.e+-]*|nan|inf", "", text), total)  # a loss in the text changes without end
        if phase != self._phase or done < self._recent[-1][0]:
            self._phase = phase
            self._recent.clear()
        self._recent.append((done, now))
        while len(self._recent) > 2 and now - self._recent[1][1] > WINDOW_S:
            self._recent.popleft()
        shown = progress_text(done, total, text, first=self._recent[0], now=now)
        interval = min(max(EVERY_S, SHARE * (now - self._started)), MOST_S)
        if self._console.live:
            self._printed = now
            self._console.bar(self._prefix, _drawn(done, total) + shown)
        elif now - self._printed >= interval:
            self._printed = now
            self._console.line(self._prefix, shown)
        if self._log is not None and now - self._noted >= interval:
            self._noted = now
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%H:%M:%S')} {shown}\n")

    def close(self) -> None:
        """The stage has ended: its bar goes."""
        self._console.bar(self._prefix, "")

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


def _drawn(done: int, total: int) -> str:
    full = min(BAR * done // total, BAR) if total > 0 else 0
    return f"[{'#' * full}{'.' * (BAR - full)}] " if total > 0 else ""


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
