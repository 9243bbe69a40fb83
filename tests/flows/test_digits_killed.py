"""kill -9 over the whole flow: whatever dies whenever, running again ends in the very same published bytes."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.flows.commands import DIGITS, STAGES, Child, Commands, Done, child_of
from tests.pipeline.conftest import published
from uio2.pipeline.store import Store

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

SEED = 2
RUNNER, STAGE = "runner", "stage"
PATIENCE_S = 180  # for a sign that a stage works, on a busy machine


def started(child: Child) -> bool:
    """The process is there; it spends its first seconds importing."""
    return True


def working(child: Child) -> bool:
    """It has written something."""
    return any(path.is_file() for folder in (child.attempt / "out", child.work) for path in folder.rglob("*"))


def checkpointed(child: Child) -> bool:
    """A training step is saved; orbax writes it under a longer name until it is whole."""
    return any(path.name.isdigit() for path in child.work.glob("checkpoints/*"))


@dataclasses.dataclass(frozen=True)
class Kill:
    """One SIGKILL: `delay` seconds after `sign` is seen in `stage`, or in a later one if that is published."""

    stage: str
    victim: str
    sign: Callable[[Child], bool]
    delay: float
    prefect: bool = False
    mlflow: bool = True


def plan_of_kills() -> list[Kill]:
    """Over the whole flow, runners and stages, at random moments of a fixed seed.

    Each costs what its stage imports, twice: one for each kind of work (files, Beam, TensorFlow, the two trainings,
    predictions), and in training while it imports and behind a checkpoint. Runs without MLflow are made up for by later
    ones.
    """
    draw = random.Random(SEED)
    return [
        Kill("raw", RUNNER, started, draw.uniform(0, 1.5), prefect=True),
        Kill("build-coco", RUNNER, working, draw.uniform(0, 1)),
        Kill("build-refcoco", STAGE, working, draw.uniform(0, 1), mlflow=False),
        Kill("tokenizer", RUNNER, started, draw.uniform(0, 4), mlflow=False),
        Kill("vision-tower", RUNNER, working, draw.uniform(0, 3)),
        Kill("train", STAGE, started, draw.uniform(0, 8), mlflow=False),
        Kill("train", RUNNER, checkpointed, draw.uniform(0, 0.3)),
        Kill("predict", STAGE, working, draw.uniform(0, 1)),
    ]


def await_sign(runner: subprocess.Popen, kill: Kill) -> None:
    """Returns when the sign of `kill` is seen, or a stage after its own runs."""
    deadline = time.monotonic() + PATIENCE_S
    while runner.poll() is None:
        child = child_of(runner)
        if child and STAGES.index(child.stage) > STAGES.index(kill.stage):
            return
        if child and child.stage == kill.stage and kill.sign(child):
            return
        assert time.monotonic() < deadline, f"no sign of {kill}"
        time.sleep(0.01)
    raise AssertionError(f"the run ended before {kill}: {runner.communicate()}")


def strike(runner: subprocess.Popen, kill: Kill) -> str:
    """Kills at the moment of `kill`; returns the stage that ran. All that is left must end by itself."""
    await_sign(runner, kill)
    time.sleep(kill.delay)
    while (child := child_of(runner)) is None:
        assert runner.poll() is None, runner.communicate()
        time.sleep(0.002)
    family = psutil.Process(runner.pid).children(recursive=True)
    if kill.victim == RUNNER:
        runner.send_signal(signal.SIGKILL)
    else:
        child.process.send_signal(signal.SIGKILL)
    try:
        _, errors = runner.communicate(timeout=40)
    except subprocess.TimeoutExpired:  # the stage had ended in that instant, and the run goes on
        runner.send_signal(signal.SIGKILL)
        _, errors = runner.communicate()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, f"{alive} outlived {kill}"
    assert "Traceback" not in errors
    if runner.returncode != -signal.SIGKILL:
        assert runner.returncode == 1, errors
        assert f"stage {child.stage} was killed by signal 9" in errors
    return child.stage


def ledger(store: Store) -> dict[str, tuple[str, int]]:
    """Published artifact -> (the attempt that made it, how many attempts there were)."""
    return {
        record["name"]: (record["attempt"], len(list((store.root / "logs" / record["name"]).glob("*.log"))))
        for record, _ in store.records()
    }


@dataclasses.dataclass(frozen=True)
class Battered:
    """What came of the killed runs.

    Attributes:
      root: the store all of them shared.
      hits: (the stage that ran, who was killed) at each kill.
      last: the final, undisturbed run.
    """

    root: str
    hits: list[list[str]]
    last: Done

    @property
    def store(self) -> Store:
        return Store(self.root)


def batter(commands: Commands, root: Path) -> dict:
    """Runs the tiny digits, killed again and again, then once to its end; the fields of `Battered`."""
    store = Store(root).prepare()
    hits = []
    before: dict[str, tuple[str, int]] = {}
    for kill in plan_of_kills():
        how = () if kill.prefect else ("--no-prefect",)
        settings = {} if kill.mlflow else {"UIO2_MLFLOW": "off"}
        runner = commands.start("run", *DIGITS, *how, "--quiet", store=root, settings=settings)
        hits.append([strike(runner, kill), kill.victim])
        published(store)  # all that is visible is whole
        now = ledger(store)
        assert before.items() <= now.items(), "a published stage ran again"
        before = now
    last = commands.run("run", *DIGITS, "--no-prefect", "--quiet", "--json", store=root)
    assert before.items() <= ledger(store).items(), "a published stage ran again"
    return {"root": str(root), "hits": hits, "last": dataclasses.asdict(last)}


@pytest.fixture(scope="module")
def battered(commands: Commands) -> Battered:
    """The killed runs, made once in a session."""
    found = commands.once("killed", lambda: batter(commands, commands.root / "killed"))
    return Battered(**{**found, "last": Done(**found["last"])})


def test_kills_fell_over_the_whole_flow(battered):
    assert len(battered.hits) >= 8
    assert {victim for _, victim in battered.hits} == {RUNNER, STAGE}
    hit = {stage for stage, _ in battered.hits}
    assert len(hit) >= 6
    assert "train" in hit


def test_the_digests_are_those_of_an_undisturbed_run(battered, tiny_run):
    assert battered.last.status == 0, battered.last.stderr
    assert published(battered.store) == published(Store(tiny_run.store))
    assert battered.last.json()["metrics"] == tiny_run.json()["metrics"]


def test_nothing_is_left_over(battered):
    root = battered.store.root
    assert list((root / ".tmp").iterdir()) == []
    assert list((root / ".work").iterdir()) == []
    folders = set((root / "artifacts").glob("*/*/*"))
    assert folders == {path for _, path in battered.store.records()}
    assert len(folders) == len(STAGES)


def test_training_went_on_from_its_checkpoint(battered):
    record, _ = battered.store.newest("digits/train")
    rows = (battered.store.root / record["metrics"]).read_text().splitlines()
    points = map(json.loads, rows)
    steps = [point["step"] for point in points if "loss" in point["values"]]  # the rest is of the machine
    assert steps[0] > 2
    assert steps[-1] == 12


def test_mlflow_has_one_finished_run_a_stage_and_none_that_runs(battered):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{battered.store.root}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id], max_results=1000)
    stages = [run for run in runs if "uio2.stage" in run.data.tags]
    finished = [run.data.tags["uio2.digest"] for run in stages if run.info.status == "FINISHED"]
    assert sorted(finished) == sorted(published(battered.store).values())
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED", "KILLED"}
    assert client.get_model_version("digits", "1").tags["uio2.version"] == "digits@1"


def test_lineage_holds_after_all_that(battered, commands):
    done = commands.run("lineage", "digits@1", "--json", store=Path(battered.root))
    assert done.status == 0, done.stdout
    assert done.json()["ok"]
