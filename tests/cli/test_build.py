"""`uio2 build NAME` as a user has it, and `uio2 tasks` finding what it made."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from beam_jobs import dtmf
from tests.cli.test_cli import uio2  # noqa: F401  a fixture

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


def test_limit_and_shards_are_options(uio2, tmp_path):  # noqa: F811
    source = tmp_path / "alpaca.json"
    source.write_text(json.dumps(ROWS))
    done = uio2("build", "alpaca", "--source", str(source), "--limit", "5", "--num_shards", "2", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["name"], result["stats"]["splits"]["train"]) == ("datasets/build-alpaca", 5)
    shards = sorted(path.name for path in (Path(result["uri"]) / "alpaca" / "1.0.0").glob("*train*"))
    assert shards == ["alpaca-train.tfrecord-00000-of-00002", "alpaca-train.tfrecord-00001-of-00002"]


def test_what_cannot_be_meant_is_one_message(uio2):  # noqa: F811
    for arguments, message in (
        (("build", "alpacca", "--text", "x"), "no dataset 'alpacca'; did you mean 'alpaca'?"),
        (("build", "alpaca"), "uio2 build alpaca needs --text PATH; --text is missing"),
        (("build", "coco", "--images", "x"), "needs --images PATH --annotations PATH [--vqa PATH]"),
        (("build", "coco", "--pipeline", "coco", "--images", "x", "--annotations", "x", "--audio", "x"), "no --audio"),
    ):
        done = uio2(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
