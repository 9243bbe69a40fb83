"""Three nights of `refexp-nightly` on the digits, made by its schedule, with server and worker of `uio2 up`."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import time
from pathlib import Path

import anyio
import pytest
from prefect.server.schemas.schedules import CronSchedule

from tests.flows.commands import Commands, Done
from tests.flows.up import Up
from uio2.pipeline import registry
from uio2.pipeline.sources import source_digest
from uio2.pipeline.store import Store

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
MODEL = "refexp"
# Nights that have passed: each is due, so the worker takes its run at once.
FIRST = datetime.datetime.now(datetime.UTC).replace(hour=2, minute=0) - datetime.timedelta(days=4)
RECIPE = (
    "TASKS={'refcoco_unc': 1.0}", "TEXT_INPUTS=20", "BATCH_SIZE=16", "WARMUP_STEPS=10",
    "tasks.RegisterSpec.check_examples=4",
)  # fmt: skip
# More data, more steps: after 2 the answers are hardly boxes (IoU below 0.01), after 60 near the mean box (0.1).
STEPS = {1: 2, 2: 60, 3: 60}
SUITE = (
    "TASKS=('refcoco_unc',)", "TEXT_INPUTS=20", "LIMIT=320", "RESAMPLES=100", "MIN_MARGIN={}",
    "tasks.RegisterSpec.check_examples=4", "evaluate.ReportSpec.num_examples=2",
)  # fmt: skip


class Nights:
    """The deployment with this test's parameters, and a schedule that can be asked for any night."""

    def __init__(self, up: Up, data: Path):
        self.up = up
        self.id = up.api("/deployments/name/finetune/refexp-nightly")["id"]
        self.parameters = {
            "model_name": MODEL, "sources": {role: str(data / role) for role in ("images", "refer")},
            "builds": ["refcoco"], "recipe": "configs/finetune/refexp.gin", "suite": "configs/evaluate/refexp.gin",
            "initial_checkpoint": "digits/train", "improve": "refexp/iou", "suite_gin": SUITE, "num_shards": 1,
        }  # fmt: skip
        (schedule,) = up.api(f"/deployments/{self.id}")["schedules"]
        self.schedule = {key: schedule["schedule"][key] for key in ("cron", "timezone")}

    def pass_one(self, number: int, *, says: str) -> None:
        """Lets the clock go over the night of this number; its run must complete and say that."""
        parameters = {**self.parameters, "gin": [*RECIPE, f"STEPS={STEPS[number]}"]}
        self.up.api(f"/deployments/{self.id}", {"parameters": parameters}, method="PATCH")
        evening = FIRST + datetime.timedelta(days=number)
        (due,) = anyio.run(CronSchedule(**self.schedule).get_dates, 1, evening)
        assert (due.day, due.hour, due.minute) == (evening.day, 2, 30)
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}
        run = self.up.api(f"/deployments/{self.id}/create_flow_run", {"state": state})
        self.up.wait_state(run["id"], "Completed", "Failed", "Crashed", seconds=480)
        deadline = time.monotonic() + 30  # the last lines arrive after the state
        while True:
            logs = self.up.api("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
            text = "\n".join(line["message"] for line in logs)
            if says in text or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        assert self.up.state(run["id"]) == "Completed", text
        assert says in text


@pytest.fixture(scope="module")
def raws(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Raw files of two evenings; the second has those of the first and as many more for training."""
    found = []
    for scenes in (160, 320):
        store = tmp_path_factory.mktemp("raw")
        sizes = (f"--gin.NUM_TRAIN={scenes}", "--gin.NUM_VALIDATION=60", "--gin.data.DigitsRawSpec.num_audio_train=1")
        made = commands.run(
            "build", "--stage", "raw", *sizes, "--json", store=store, settings={"UIO2_MLFLOW": "off"}
        )  # fmt: skip
        assert made.status == 0, made.stderr
        found.append(Path(made.json()[0]["uri"]))
    return found


@pytest.fixture(scope="module")
def nights(up: Up, tiny_run: Done, tmp_path_factory: pytest.TempPathFactory) -> tuple[Nights, Path]:
    """The nights in a store that holds the tiny model of the digits, and the folder their sources are read from."""
    shutil.copytree(
        Path(tiny_run.store) / "artifacts", up.store / "artifacts", copy_function=os.link, dirs_exist_ok=True
    )
    data = tmp_path_factory.mktemp("data")
    return Nights(up, data), data


def test_the_champion_of_the_second_night_was_made_from_the_new_data(commands: Commands, nights, raws) -> None:
    deployment, data = nights
    store = Store(deployment.up.store)
    shutil.copytree(raws[0], data, dirs_exist_ok=True)
    deployment.pass_one(1, says="starts from digits/train: there is no champion yet")
    first = registry.find_version(store, MODEL, "champion")
    assert first is not None
    assert first.number == 1

    shutil.copytree(raws[1], data, dirs_exist_ok=True)
    deployment.pass_one(2, says="starts from refexp@1, the champion")
    champion = registry.find_version(store, MODEL, "champion")
    decision = json.loads((store.newest("refexp-nightly/promote")[1] / "model.json").read_text())
    improved = next(check for check in decision["checks"] if check["kind"] == "improve")
    assert improved["passed"], improved["reason"]
    assert improved["found"] < 0.05
    assert champion is not None
    assert champion.number == 2
    assert decision["champion"]["checkpoint"] == first.checkpoint

    chain = commands.run("lineage", f"{MODEL}@champion", "--json", store=store.root).json()["nodes"]
    read = {(node["name"], node["digest"]): node["status"] for node in chain}
    assert all(read[role, source_digest(str(data / role))] == "ok" for role in ("images", "refer"))
    assert ("refexp-nightly/train", first.checkpoint) in read
    assert len({digest for name, digest in read if name == "datasets/build-refcoco"}) == 2

    before = len(list(store.records()))
    deployment.pass_one(3, says="nothing new: decided in the night that started from refexp-nightly/train")
    assert len(list(store.records())) == before
    assert registry.find_version(store, MODEL, "champion") == champion
