"""What a person sees of a running stage: a bar on a terminal, a line per interval elsewhere."""

from __future__ import annotations

import io
import re

import pytest

from uio2.pipeline import console
from uio2.pipeline.console import Console, Progress


class Terminal(io.StringIO):
    """A stream that says it is one, with the time that its reports come at."""

    now = 0.0

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(console.time, "monotonic", lambda: Terminal.now)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    Terminal.now = 0.0


def train(progress, *, start=0, steps=1000, until=400):
    """A step every two seconds, after a slow first one; the loss changes with each."""
    for step in range(start + 1, until + 1):
        Terminal.now += 2.0 if step > start + 1 else 30.0
        progress.report(step, steps, f"train loss {9 / step:.4f}")


def test_a_terminal_has_a_bar_that_says_how_long_it_will_take(clock):
    stream = Terminal()
    shown = Console(stream=stream)
    progress = Progress(shown, "train")
    train(progress)
    last = re.sub(r"\x1b\[\d+m", "", stream.getvalue()).split("\r\x1b[K")[-1]
    assert last == "train         | [########............] train loss 0.0225 400/1000 (40%), 0.5/s, 20 min 00 s left"
    assert "\n" not in stream.getvalue()
    shown.line("eval", "hello")
    progress.close()
    seen = re.sub(r"\x1b\[\d+m", "", stream.getvalue()).split("\r\x1b[K")
    assert seen[-2].startswith("eval          | hello\ntrain         | [####")
    assert seen[-1] == ""


def test_a_log_has_a_line_per_interval(clock, tmp_path):
    stream, log = io.StringIO(), tmp_path / "train.log"
    train(Progress(Console(stream=stream), "train", log=log))
    lines = stream.getvalue().splitlines()
    assert 20 < len(lines) < 50
    assert re.fullmatch(r"train         \| train loss 0.0\d+ \d+/1000 \(\d+%\), 0.5/s, 2\d min \d\d s left", lines[-1])
    assert [line.split(" ", 1)[1] for line in log.read_text().splitlines()] == [line.split("| ")[1] for line in lines]
