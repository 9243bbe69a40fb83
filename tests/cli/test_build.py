"""`uio2 build NAME` as a user has it, and `uio2 tasks` finding what it made."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from beam_jobs import dtmf, instructions
from beam_jobs.request import BuildOptions
from beam_jobs.specs import InstructionsSpec
from tests.cli.test_cli import uio2  # noqa: F401  a fixture
from uio2.pipeline.artifact import digest_directory
from uio2.pipeline.stage import StageError

ROWS = [{"instruction": f"Say {n}.", "input": "", "output": str(n)} for n in range(40)]


def _clips(folder: Path) -> Path:
    (folder / "train").mkdir(parents=True)
    with (folder / "captions_train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption_1"])
        for number in range(3):
            sound = dtmf.dial(np.random.default_rng(number), str(number))
            (folder / "train" / f"{number}.wav").write_bytes(dtmf.wav_bytes(sound))
            table.writerow([f"{number}.wav", f"the key {number}"])
    return folder


def test_a_dataset_of_ones_own_is_what_a_task_reads(uio2, tmp_path):  # noqa: F811
    before = {row["task"]: row for row in json.loads(uio2("tasks", "--json").stdout)["tasks"]}
    assert before["audio_caption"]["built"] == "no: uio2 build audio"
    done = uio2("build", "audio", "--audio", str(_clips(tmp_path / "clips")))
    assert done.returncode == 0, done.stderr
    after = {row["task"]: row for row in json.loads(uio2("tasks", "--json").stdout)["tasks"]}
    assert (after["audio_caption"]["built"], after["audio_caption"]["ready"]) == ("datasets/build-audio", True)


def test_a_dry_run_then_a_build_into_a_folder_then_the_same_from_python(uio2, tmp_path):  # noqa: F811
    source, out = tmp_path / "alpaca.json", tmp_path / "data" / "alpaca"
    source.write_text(json.dumps([*ROWS, {"instruction": "", "output": "x"}]))
    command = ("build", "alpaca", "--source", str(source), "--limit", "5", "--num_shards", "2", "--json")
    command = (*command, "--gin.data.InstructionsSpec.max_dropped_fraction=0.1")
    done = uio2(*command, "--dry_run")
    assert done.returncode == 0, done.stderr
    (seen,) = json.loads(done.stdout)
    assert (seen["dataset"], seen["records_in"], seen["dropped"]) == (
        "alpaca/1.0.0",
        {"instruction": 41},
        {"instruction": {"empty_text": 1}},
    )
    assert (seen["splits"]["train"], seen["sampled"], seen["sample_dropped"], seen["problem"]) == (
        5, sum(seen["splits"].values()), {}, ""
    )  # fmt: skip
    store = tmp_path / "store"
    assert not list((store / "artifacts").iterdir())
    done = uio2(*command, "--out", str(out))
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["name"], result["out"], result["stats"]["splits"]) == (
        "datasets/build-alpaca", str(out), seen["splits"]
    )  # fmt: skip
    assert result["stats"]["bytes"] == seen["estimated_bytes"]
    shards = sorted(path.name for path in (out / "alpaca" / "1.0.0").glob("*train*"))
    assert shards == ["alpaca-train.tfrecord-00000-of-00002", "alpaca-train.tfrecord-00001-of-00002"]
    assert digest_directory(out) == result["digest"]

    spec = InstructionsSpec(limit=5, num_shards=2, max_dropped_fraction=0.1)
    again = instructions.build(BuildOptions({"text": source}, spec=spec, store=str(store), out=tmp_path / "second"))
    assert (again.digest, digest_directory(tmp_path / "second")) == (result["digest"], result["digest"])
    (out / "alpaca" / "notes.txt").write_text("mine")
    instructions.build(BuildOptions({"text": source}, spec=spec, store=str(store), out=out))
    assert (out / "alpaca" / "notes.txt").read_text() == "mine"
    for taken, message in ((tmp_path, "holds other things"), (source, "a file")):
        with pytest.raises(StageError, match=f"{message}.*nothing is overwritten"):
            instructions.build(BuildOptions({"text": source}, spec=spec, store=str(store), out=taken))


def test_what_cannot_be_meant_is_one_message(uio2):  # noqa: F811
    for arguments, message in (
        (("build", "alpacca", "--text", "x"), "no dataset 'alpacca'; did you mean 'alpaca'?"),
        (("build", "alpaca", "--text", __file__, "--max_side", "9"), "--max_side: alpaca has no such setting"),
        (("build", "alpaca"), "uio2 build alpaca needs --text PATH; --text is missing"),
        (("build", "coco", "--images", "x"), "needs --images PATH --annotations PATH [--vqa PATH]"),
        (("build", "coco", "--pipeline", "coco", "--images", "x", "--annotations", "x", "--audio", "x"), "no --audio"),
    ):
        done = uio2(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
