"""The command line as a user has it: real processes, exit statuses, one message per error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOYS = "tests.pipeline.toy_flow"
COMMANDS = (
    "run", "build", "train", "predict", "score", "report", "show", "plan", "lineage", "up", "down", "doctor",
    "visualize", "export",
)  # fmt: skip
HEAVY = ("jax", "tensorflow", "apache_beam", "prefect", "mlflow", "numpy", "seqio", "rich")


@pytest.fixture
def uio2(tmp_path, monkeypatch):
    """Runs `uio2 ARGUMENTS` against a store of the test's own."""
    monkeypatch.setenv("UIO2_MLFLOW", "off")
    monkeypatch.setenv("UIO2_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "uio2", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=150,
        )

    return run


def test_help_imports_nothing_heavy():
    probe = (
        "import sys\n"
        "from uio2.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
    for word in COMMANDS:
        assert word in done.stdout


def test_a_stage_keeps_from_keras_what_others_get(tmp_path):
    (tmp_path / "keras.py").write_text("try:\n    import pandas\nexcept ImportError:\n    pandas = None\n")
    (tmp_path / "pandas.py").write_text("frames = 3\n")
    probe = (
        "from uio2.cli.lean_imports import keep_extras_from_keras\n"
        "keep_extras_from_keras()\n"
        "import keras, pandas\n"
        "print(keras.pandas, pandas.frames)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["None", "3"], done.stderr


@pytest.mark.parametrize(
    "command",
    COMMANDS,
)
def test_every_command_has_examples(command, uio2):
    done = uio2(command, "--help")
    assert done.returncode == 0
    assert f"uio2 {command}" in done.stdout.split("examples:")[1]


def test_a_source_given_twice_is_refused(uio2):
    done = uio2("plan", "coco", "--images", "a", "--images", "b", "--annotations", "c")
    assert done.returncode == 2
    assert "--images is given twice, a and b" in done.stderr


def test_run_show_plan_lineage(uio2):
    first = uio2("run", TOYS, "--no-prefect")
    assert first.returncode == 0, first.stderr
    assert "0.750" in first.stdout
    assert "0.250" in first.stdout
    assert "uio2 up" in first.stdout
    again = uio2("run", TOYS, "--json")
    assert "every stage of toys is published" in again.stderr
    shown = json.loads(uio2("show", "toys", "--json").stdout)
    assert shown["metrics"]["toy/acc"] == {"value": 0.75, "low": 0.7, "high": 0.8, "baseline": 0.25, "n": 40}
    assert [row["stage"] for row in shown["stages"]] == ["a", "b", "c", "d"]
    assert json.loads(again.stdout)["stages"] == shown["stages"]
    planned = json.loads(uio2("plan", TOYS, "--json", "--gin.c/toy.ToySpec.text='z'").stdout)
    assert [row["status"] for row in planned["stages"]] == ["cached", "cached", "run", "waits"]
    assert planned["stages"][2]["changes"] == [{"field": "spec.text", "old": "c", "new": "z"}]
    lineage = uio2("lineage", "toys@1", "--json")
    assert lineage.returncode == 0
    assert json.loads(lineage.stdout)["ok"]


def test_lineage_exits_1_on_a_flipped_byte(uio2, tmp_path):
    uio2("run", TOYS, "--no-prefect")
    data = next((tmp_path / "store" / "artifacts" / "toys" / "a").glob("*/part1/data.txt"))
    data.write_text(data.read_text().replace(data.read_text()[0], "?"))
    done = uio2("lineage", "toys@1")
    assert done.returncode == 1
    assert "MISMATCH" in done.stdout


def test_single_stage_runs_only_what_it_needs(uio2):
    done = uio2("score", "--pipeline", TOYS, "--json")
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in json.loads(done.stdout)] == ["toys/c"]
    statuses = {row["stage"]: row["status"] for row in json.loads(uio2("plan", TOYS, "--json").stdout)["stages"]}
    assert statuses == {"a": "cached", "b": "run", "c": "cached", "d": "waits"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "digts"], 2, "did you mean 'digits'"),
        (["run", "coco", "--images", "/x"], 2, "needs --annotations DIR"),
        (["run", TOYS, "--images", "/x"], 2, "takes no --images"),
        (["run", TOYS, "--gin.SLEP=1"], 2, "did you mean 'SLEEP'"),
        (["run", TOYS, "--source", "files=/nowhere"], 2, "no such file or folder: /nowhere"),
        (["run", TOYS, "--no-prefect", "--gin.a/toy.ToySpec.fail='stage'"], 1, "stage a failed: key 'a' is 3"),
        (["train", "--pipeline", TOYS], 2, "name one with --stage"),
        (["build", "nothing", "--pipeline", TOYS], 2, "it builds: no dataset"),
        (["show", "toys"], 2, "has not run"),
        (["lineage", "toys@1"], 2, "no model 'toys@1'"),
        (["show", "--gin.X=1"], 2, "takes no gin bindings"),
        (["plan", TOYS, "--store", "/proc/nowhere"], 1, "is not writable"),
        (["plan", TOYS, "--store", "gs://bucket"], 1, "only local folders"),
    ],
)
def test_errors_are_one_message_and_a_status(arguments, status, message, uio2):
    done = uio2(*arguments)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(uio2):
    done = uio2("run", TOYS, "--no-prefect", "--debug", "--gin.a/toy.ToySpec.fail='bug'")
    assert done.returncode == 1
    assert 'raise KeyError("nothing here")' in done.stderr


def test_doctor_finds_an_unwritable_store(uio2):
    done = uio2("doctor", "--json", "--store", "/proc/nowhere")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert any("is not writable" in problem["what"] for problem in found["problems"])
    assert found["devices"]
    assert found["packages"]["jax"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_prefect_flow_that_fails_says_so_here_and_there(uio2, tmp_path):
    """What one leaves that succeeds: tests/flows/test_digits.py."""
    import sqlite3

    failed = uio2("run", TOYS, "--gin.b/toy.ToySpec.fail='stage'")
    assert failed.returncode == 1
    assert "stage b failed: key 'a' is 3" in failed.stderr
    assert "Traceback" not in failed.stderr
    rows = sqlite3.connect(tmp_path / "store" / "prefect" / "prefect.db")
    assert rows.execute("select state_type from flow_run").fetchall() == [("FAILED",)]
    tasks = rows.execute("select name, state_type from task_run where start_time not null order by start_time")
    assert [(name[0], state) for name, state in tasks][:2] == [("a", "COMPLETED"), ("b", "FAILED")]
