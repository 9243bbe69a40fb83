"""Two runs of one store beside each other: what differs, what is significant, which examples were won and lost."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.evaluate.test_report import Page
from uio2.cli.main import main
from uio2.evaluate import score
from uio2.evaluate.paired import delta, sign_flip
from uio2.evaluate.specs import ScoreSpec
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.store import Store

from . import tiny

FOUND = tiny.scenes(number=40, seed=5, validation=True)


def publish(store: Store, made: Artifact, *, stage: str, spec: dict, **inputs: Artifact) -> Artifact:
    """The folder as an artifact of the store, with a record."""
    fingerprint = made.digest
    attempt = store.new_attempt(fingerprint)
    shutil.copytree(made.path, attempt / "out", dirs_exist_ok=True)
    keys = ("kind", "name", "version", "digest", "fingerprint")
    record = {
        "kind": made.kind, "version": "1", "fingerprint": fingerprint, "stage": stage, "code_version": "1",
        "spec": spec, "stats": dict(made.stats),
        "inputs": {key: {k: getattr(value, k) for k in keys} for key, value in inputs.items()},
    }  # fmt: skip
    return store.publish(attempt, name=f"digits/{stage}", record=record, volatile=())


def evaluated(store: Store, folder, world, *, steps: int, skill: float) -> str:
    """Publishes checkpoint, predictions and score of a model of that skill; the score's reference."""
    (folder / "model").mkdir(parents=True)
    history = "".join(f'{{"step": {s}, "loss": {3 / s + 1 - skill}}}\n' for s in (10, 20, 30))
    (folder / "model" / "history.jsonl").write_text(history)
    train = tiny.artifact(folder / "model", kind="checkpoint", name="digits/train")
    train = publish(store, train, stage="train", spec={"steps": steps})
    tasks = ("vqa_coco_2017", "box_classification_coco_2017")
    rows = {task: tiny.rows_of(task, found=FOUND, skill=skill, seed=3) for task in tasks}
    predict = tiny.write_predictions(folder / "predictions", rows=rows, checkpoint=train.digest)
    predict = publish(store, predict, stage="predict", spec={}, checkpoint=train)
    inputs = {key: value for key, value in world.inputs.items() if value.kind == "dataset"} | {"predictions": predict}
    context = tiny.context(folder / "score", **inputs)
    score.run(ScoreSpec(resamples=200), context)
    made = tiny.artifact(context.out, kind="report", name="digits/score")
    return f"digits/score@{publish(store, made, stage='score', spec={}, **inputs).fingerprint[:12]}"


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory) -> tuple[Store, str, str]:
    folder = tmp_path_factory.mktemp("compare")
    store = Store(folder / "store").prepare()
    good = evaluated(store, folder / "good", world, steps=300, skill=0.9)
    bad = evaluated(store, folder / "bad", world, steps=20, skill=0.3)
    return store, good, bad


def test_compare_says_what_differs_and_what_is_significant(runs, capsys, tmp_path):
    store, good, bad = runs
    page = tmp_path / "page.html"
    command = ["compare", "--store", str(store.root), good, bad]
    assert main([*command, "--json", "--out", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {s["name"]: s["values"] for s in found["settings"]} == {"train.steps": ["300", "20"]}
    metrics = {m["key"]: m for m in found["metrics"]}
    vqa = metrics["vqa/exact_match"]
    assert vqa["verdicts"] == ["worse"]
    assert vqa["deltas"][0]["value"] == pytest.approx(vqa["values"][1][0] - vqa["values"][0][0], abs=1e-6)
    assert vqa["deltas"][0]["n"] == len(FOUND)
    parsed = Page(page.read_text(encoding="utf-8"))
    assert not parsed.open
    words = " ".join(parsed.texts)
    assert "train.steps" in words
    assert "training loss" in words.lower()
    lost = sum(1 for tag, a in parsed.tags if tag == "article")
    assert lost >= 8
    assert main(command) == 0
    assert "1 settings differ" in capsys.readouterr().out


def test_a_run_is_found_from_its_checkpoint(runs, capsys, tmp_path):
    store, good, bad = runs
    trains = [record for record, _ in store.records() if record["stage"] == "train"]
    references = [f"digits/train@{r['fingerprint'][:12]}" for r in sorted(trains, key=lambda r: -r["spec"]["steps"])]
    page = tmp_path / "p.html"
    assert main(["compare", "--store", str(store.root), "--json", "--out", str(page), *references]) == 0
    by_checkpoint = json.loads(capsys.readouterr().out)
    assert main(["compare", "--store", str(store.root), "--json", "--out", str(page), good, bad]) == 0
    assert by_checkpoint["metrics"] == json.loads(capsys.readouterr().out)["metrics"]


def test_a_run_takes_the_title_by_beating_the_champion_on_the_same_examples(runs, capsys):
    store, good, bad = runs

    def uio2(*words):
        status = main([*words, "--json", "--store", str(store.root)])
        return status, json.loads(capsys.readouterr().out)

    gate = ("--improve", "vqa/exact_match", "--max_fall", "box_classification/exact_match=0.0")
    first = uio2("promote", bad, *gate)
    assert (first[0], first[1]["version"], first[1]["champion"]) == (0, 1, True)
    status, better = uio2("promote", good, *gate)
    assert (status, better["version"]) == (0, 2)
    assert f"significantly better (paired test on {len(FOUND)} examples" in better["reasons"][0]
    status, worse = uio2("promote", "digits@1", *gate)
    assert (status, worse["version"], worse["promoted"]) == (1, 1, False)
    assert "further than the allowed fall" in worse["reasons"][1]
    _, low = uio2("promote", bad, "--min_value", "vqa/exact_match=0.95")
    assert (low["version"], low["reasons"]) == (None, ["vqa/exact_match: the value is 0.425, below 0.950"])
    digits = uio2("models")[1]["digits"]
    assert digits["aliases"] == {"champion": 2, "challenger": 1}
    compared = {m["key"]: m for m in uio2("compare", "digits@challenger", "digits@champion")[1]["metrics"]}
    assert compared["vqa/exact_match"]["verdicts"] == ["better"]
    assert uio2("rollback", "digits", "--reason", "too slow")[1]["reason"] == "too slow"
    assert uio2("models", "digits")[1]["digits"]["aliases"] == {"champion": 1}
    assert main(["models", "digits", "--store", str(store.root)]) == 0
    shown = capsys.readouterr().out
    assert "too slow" in shown
    assert "digits@2" in shown


def test_what_was_never_scored_is_an_error(runs, capsys, tmp_path):
    store, good, _ = runs
    assert main(["compare", "--store", str(store.root), good]) == 2
    assert main(["compare", "--store", str(store.root), good, "digits/none"]) == 2
    assert "no artifact 'digits/none'" in capsys.readouterr().err


def test_sign_flips_agree_with_counting_every_sign():
    differences = np.array([1.0, 2.0, 0.5, 0.0, 1.5, -0.5, 3.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    nonzero = differences[differences != 0]
    exact = np.mean(np.abs(nonzero @ signs) >= abs(differences.sum()) - 1e-12)
    assert sign_flip(differences, name="x") == pytest.approx(exact, abs=0.01)
    assert sign_flip(np.zeros(5), name="x") == 1.0


def test_equal_answers_are_no_difference():
    scores = {f"e{i}": float(i % 2) for i in range(20)}
    same = delta(scores, dict(scores), name="m")
    assert same is not None
    assert (same.value, same.p, same.significant) == (0.0, 1.0, False)
    assert delta(scores, {"other": 1.0}, name="m") is None
