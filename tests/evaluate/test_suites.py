"""Evaluation suites: those of the repository say what can be done, and what cannot is told before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.evaluate import prepared, settings, suites
from uio2.evaluate import gate
from uio2.evaluate.specs import GateSpec
from uio2.model.config import ModelConfig
from uio2.pipeline.stage import StageError, UsageError
from uio2.pipeline.store import Store

from . import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[Store, str]:
    """An empty store, and what looks like a checkpoint of the published `large`."""
    root = tmp_path_factory.mktemp("suites")
    (root / "large" / "params").mkdir(parents=True)
    (root / "large" / "config.json").write_text(ModelConfig.preset("large").to_json())
    return Store(root / "store"), f"CHECKPOINT='{root / 'large'}'"


@pytest.mark.parametrize("suite", suites())
def test_a_suite_names_tasks_decoding_figures_and_conditions_that_there_are(suite, place):
    store, checkpoint = place
    found = settings([suite], [checkpoint], store=store)
    assert found.predict.tasks == tuple(found.register.rates)
    with pytest.raises(UsageError) as refused:
        prepared([suite], [checkpoint], store=store, given={})
    problems = [line for line in str(refused.value).splitlines() if line.startswith("  - ")]
    missing = ("  - no dataset ", f"  - {checkpoint.replace(chr(39), '').replace('=', ' ')}")
    assert all(line.startswith(missing) for line in problems), problems
    assert any("brings no tokenizer" in line for line in problems)


def test_what_cannot_be_meant_is_refused_in_one_go(place):
    store, checkpoint = place
    wrong = ["DECODING={'vqq': {'max_length': 3}, 'caption': {'guidance': 2.0}}", "SLICES=('colour',)",
             "METRICS={'wer': ('wer',)}"]  # fmt: skip
    with pytest.raises(UsageError) as refused:
        prepared(["configs/evaluate/vision_language.gin"], [checkpoint, *wrong], store=store, given={})
    said = str(refused.value)
    assert "DECODING names 'vqq', which is no task of this suite" in said
    assert "'image_caption_coco_2017' sets guidance; answers that are text have max_length, num_beams" in said
    assert "ScoreSpec.slices names colour" in said
    assert "METRICS names 'wer'" in said
    with pytest.raises(UsageError, match=r"no CHECKPOINT: add --checkpoint"):
        settings(["configs/evaluate/refexp.gin"], [], store=store)
    with pytest.raises(UsageError, match=r"no TASKS: add --gin_file=SUITE, one of configs/evaluate/audio.gin"):
        settings([], [checkpoint], store=store)


def test_a_gate_keeps_its_reasons_and_refuses(tmp_path):
    (tmp_path / "score").mkdir()
    row = {"value": 0.5, "low": 0.4, "high": 0.6, "baseline": 0.45, "n": 100}
    values = {"metrics": {"refexp/acc": row, "vqa/score": {**row, "baseline": 0.1}}}
    (tmp_path / "score" / "metrics.json").write_text(json.dumps(values))
    score = tiny.artifact(tmp_path / "score", kind="report", name="evaluate/score")

    def outcome(name: str, **conditions) -> Path:
        context = tiny.context(tmp_path / name, score=score)
        stats = gate.run(GateSpec(**conditions), context)
        assert stats["passed"] == (not stats["failed"])
        return context.out

    gate.refuse(outcome("well", min_margin={"vqa/score": 0.2}, min_value={"refexp/acc": 0.5}))
    badly = outcome("badly", min_margin={"vqa/score": 0.2, "refexp/acc": 0.0}, min_value={"wer/wer": 0.1})
    with pytest.raises(StageError) as refused:
        gate.refuse(badly)
    assert "not passed (2 of 3 conditions)" in str(refused.value)
    assert "refexp/acc: the interval's lower end above the baseline is -0.050, below 0.000" in str(refused.value)
    assert "wer/wer was not measured" in str(refused.value)
