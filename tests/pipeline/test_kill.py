"""kill -9 of any process at any moment, then run again: same digests, nothing half visible, no stage twice at once."""

from __future__ import annotations

import random
import signal
import time

import psutil
import pytest

from tests.pipeline.conftest import TOYS, counts, published
from uio2.pipeline.store import Store

RUN = ("run", TOYS, "--no-prefect", "--quiet", "--json", "--gin.SLEEP=0.3")


def clean_digests(toys, tmp_path) -> dict[str, str]:
    """What an undisturbed run publishes, in a store of its own."""
    from uio2.pipeline.console import Console
    from uio2.pipeline.execution import Execution
    from uio2.pipeline.runner import Runner

    other = Store(tmp_path / "clean")
    Execution(toys("SLEEP=0.3"), Runner(other, pipeline="toys", console=Console(quiet=True))).run()
    return published(other)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [0, 1])
def test_kills_at_random_moments(seed, store, toys, start_cli, executions, tmp_path, monkeypatch):
    draw = random.Random(seed)
    for _ in range(6):
        kept = {record["fingerprint"][:16] for record, _ in store.records()}
        ran = len(executions("start"))
        process = start_cli(*RUN)
        time.sleep(draw.uniform(0.1, 1.3))
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        victim = draw.choice(family)
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
        if victim.pid != process.pid:  # the runner must report it and end by itself
            process.wait(timeout=30)
        published(store)
        assert not kept & set(executions("start")[ran:]), "a published stage ran again"
    last = start_cli(*RUN)
    _, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors
    after = published(store)
    assert executions("overlap") == []
    assert set(counts(executions("end"), store)) == after.keys()
    assert list((store.root / ".tmp").iterdir()) == []
    assert list((store.root / ".work").iterdir()) == []
    monkeypatch.delenv("UIO2_TEST_LOG")
    assert after == clean_digests(toys, tmp_path)


@pytest.mark.timeout(60)
def test_child_dies_with_its_runner(store, start_cli):
    process = start_cli(*RUN[:-1], "--gin.SLEEP=30")
    child = wait_for_child(process.pid)
    process.send_signal(signal.SIGKILL)
    _gone, alive = psutil.wait_procs([child], timeout=5)
    assert not alive
    assert published(store) == {}


@pytest.mark.timeout(60)
def test_interrupt_ends_the_child_keeps_scratch_and_exits_130(store, start_cli):
    process = start_cli("run", TOYS, "--no-prefect", "--gin.SLEEP=2")
    child = wait_for_child(process.pid)
    deadline = time.monotonic() + 20
    while not list((store.root / ".work").glob("*/0.txt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "stopped" in errors
    assert "Traceback" not in errors
    assert not child.is_running()
    assert list((store.root / ".work").glob("*/0.txt"))
    key = next((store.root / ".work").iterdir()).name
    lease = store.lease(key)
    assert lease.try_acquire()
    lease.release()


@pytest.mark.timeout(60)
def test_two_runners_at_once_run_each_stage_once(store, start_cli, executions):
    runners = [start_cli("run", TOYS, "--no-prefect", "--gin.SLEEP=0.6") for _ in range(2)]
    texts = [runner.communicate(timeout=50)[1] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], texts
    assert executions("overlap") == []
    assert counts(executions("start"), store) == {f"toys/{stage}": 1 for stage in "abcd"}
    assert "waiting for process" in "".join(texts)
    assert "already published" in "".join(texts)


def wait_for_child(pid: int) -> psutil.Process:
    """The first stage process below a runner."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            if "uio2.cli.child" in " ".join(child.cmdline()):
                return child
        time.sleep(0.02)
    raise AssertionError("no stage started")
