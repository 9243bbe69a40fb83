"""Real processes that train as one: the same bytes from one, two and four of them, and what happens when one fails."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.train.crew_member import STEPS
from uio2.model.checkpoint.native import VOLATILE
from uio2.pipeline.artifact import digest_directory
from uio2.train.processes import LOST

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MESH = {"UIO2_MESH": "data=2,fsdp=2", "UIO2_PLAN": "fsdp"}
NOTICED_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(folder: Path, *, count: int, actions: dict[int, str] | None = None, module: str = "tests.train.crew_member",
          settings: dict[str, str] | None = None) -> list[subprocess.Popen]:  # fmt: skip
    """`count` processes of one training; `actions` (STEP=WHAT) are for one of them each."""
    address = f"localhost:{free_port()}"
    members = []
    for number in range(count):
        crew = {"UIO2_COORDINATOR": address, "UIO2_NUM_PROCESSES": str(count), "UIO2_PROCESS_ID": str(number)}
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", **MESH, **(crew if count > 1 else {}), **(settings or {})}
        action = [(actions or {})[number]] if number in (actions or {}) else []
        members.append(subprocess.Popen(
            [sys.executable, "-m", module, str(folder), *action], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ))  # fmt: skip
    return members


def finish(members: list[subprocess.Popen], *, patience: float = 240) -> list[tuple[int, str]]:
    """Exit status and what was said, of each."""
    try:
        deadline = time.monotonic() + patience
        said = [member.communicate(timeout=max(deadline - time.monotonic(), 1))[1] for member in members]
    finally:
        for member in members:
            member.kill()
    return [(member.returncode, text) for member, text in zip(members, said, strict=True)]


def outcome(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """Parameters and history, bit for bit."""
    with np.load(folder / "out" / "params.npz") as found:
        params = {name: found[name].tobytes() for name in found.files}
    return params, (folder / "work" / "history.jsonl").read_text().splitlines()


def test_a_run_with_all_that_happens_to_it_ends_as_an_undisturbed_one(tmp_path):
    alone, folder = tmp_path / "alone", tmp_path / "eventful"
    ((status, said),) = finish(start(alone, count=1))
    assert status == 0, said

    # Process 0, which all others depend on, is killed.
    members = start(folder, count=4, actions={0: "6=kill"})
    members[0].wait(timeout=240)
    began = time.monotonic()
    for status, said in finish(members[1:], patience=NOTICED_S):
        assert status not in (0, -9), "it noticed by itself"
        # The first is ours; JAX may be faster, and says the second.
        assert "go on from the last checkpoint" in said or "another task died" in said
    assert time.monotonic() - began < NOTICED_S

    # One of two is preempted.
    for status, said in finish(start(folder, count=2, actions={1: "10=term"})):
        assert status == 1
        assert "stopped at step 11 of 16" in said
    assert (folder / "work" / "checkpoints" / "11").is_dir()

    # The data of one of two ends.
    for status, said in finish(start(folder, count=2, actions={1: "14=end"})):
        assert status in (1, LOST)
        assert "the data of process 1 stopped: the data ended after step 14 of 16" in said
    assert not (folder / "out" / "params.npz").exists()

    ((status, said),) = finish(start(folder, count=1))
    assert status == 0, said
    assert outcome(folder) == outcome(alone)
    assert len(outcome(folder)[1]) == STEPS // 4


@pytest.mark.long
def test_the_stage_on_a_real_mixture_is_killed_and_goes_on_with_another_count(mixture_inputs, tmp_path):
    inputs = json.dumps({name: dataclasses.asdict(artifact) for name, artifact in mixture_inputs.items()})
    folders = [tmp_path / name for name in ("calm", "killed")]
    for folder in folders:
        folder.mkdir()
        (folder / "inputs.json").write_text(inputs)
    calm, killed = folders
    stage = {"module": "tests.train.feed_member", "settings": {"UIO2_MESH": "data=1,fsdp=2"}}
    ((status, said),) = finish(start(calm, count=1, **stage))
    assert status == 0, said
    members = start(killed, count=2, **stage)
    deadline = time.monotonic() + 240
    while not (killed / "work" / "checkpoints" / "6").is_dir() and time.monotonic() < deadline:
        time.sleep(0.02)
    members[1].kill()
    (status, said), _ = finish(members, patience=NOTICED_S)
    assert status not in (0, -9), "it noticed"
    assert "go on from the last checkpoint" in said
    assert not any(killed.glob("stats-*"))
    ((status, said),) = finish(start(killed, count=1, **stage))
    assert status == 0, said
    one, two = (json.loads((folder / "stats-0.json").read_text()) for folder in (killed, calm))
    assert one.pop("attempts") > two.pop("attempts") == 1
    assert 0 < one.pop("goodput") < 1 > two.pop("goodput")
    assert one == two
    assert "validation/refexp/iou" in one
    for file in VOLATILE:
        for folder in folders:
            (folder / "out" / "model" / "params" / file).unlink(missing_ok=True)
    assert digest_directory(killed / "out") == digest_directory(calm / "out")
