"""Predicting with several processes and devices: the same rows as with one, also when a process is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from uio2.evaluate import predict
from uio2.evaluate.predictions import read_all
from uio2.pipeline.stage import StageContext

from . import tiny
from .test_predict import SPEC, inputs, predicted  # noqa: F401 - the fixtures of that file

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
MEMBER = """
import json, sys
from pathlib import Path
from uio2.evaluate import predict
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import StageContext
from tests.evaluate.test_predict import SPEC
job = json.loads(sys.stdin.read())
inputs = {name: Artifact(**value) for name, value in job["inputs"].items()}
context = StageContext(inputs, Path(job["out"]), Path(job["work"]), lambda *_: None, lambda *_: None)
print(predict.run(SPEC, context)["made"])
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen]]:
    found: list[subprocess.Popen] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


def start(context: StageContext, *, devices: int) -> subprocess.Popen:
    """Process 1 of 2, on `devices` virtual devices."""
    settings = {"UIO2_NUM_PROCESSES": "2", "UIO2_PROCESS_ID": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    process = subprocess.Popen(
        [sys.executable, "-c", MEMBER],
        env={**os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    values = {name: dataclasses.asdict(artifact) for name, artifact in context.inputs.items()}
    assert process.stdin
    process.stdin.write(json.dumps({"inputs": values, "out": str(context.work / "unused"), "work": str(context.work)}))
    process.stdin.close()
    return process


def test_a_killed_process_is_replaced_and_every_example_has_one_row(
    inputs, predicted, started, tmp_path, monkeypatch  # noqa: F811
):  # fmt: skip
    context = tiny.context(tmp_path / "p", **inputs)
    started.append(start(context, devices=1))
    deadline = time.monotonic() + 200
    while not list(context.work.glob("*/*.jsonl")):
        assert started[0].poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started[0].send_signal(signal.SIGKILL)
    started[0].wait()
    before = set(context.work.glob("*/*.jsonl"))

    monkeypatch.setenv("UIO2_NUM_PROCESSES", "2")
    monkeypatch.setenv("UIO2_PROCESS_ID", "0")
    stats: dict = {}
    leader = threading.Thread(target=lambda: stats.update(predict.run(SPEC, context)))
    leader.start()
    started.append(start(context, devices=2))
    leader.join(timeout=250)
    assert not leader.is_alive()
    assert started[1].wait(timeout=60) == 0
    assert before < set(context.work.glob("*/*.jsonl"))

    assert stats == predicted[0]
    for found, expected in zip(read_all(context.out), read_all(predicted[1].path), strict=True):
        assert found.header == expected.header
        for row, alone in zip(found.rows, expected.rows, strict=True):
            # The last bits of a sum depend on how many devices it is made on.
            assert row.logprob == pytest.approx(alone.logprob, abs=1e-3)
            assert dataclasses.replace(row, logprob=alone.logprob) == alone
