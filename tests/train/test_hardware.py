"""Training that is planned for other chips: its figures, and what is proposed where it does not fit."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.flops import Lengths, train_step
from uio2.cli.main import main
from uio2.model.config import ModelConfig
from uio2.pipeline.stage import StageError, UsageError
from uio2.tasks.specs import RegisterSpec
from uio2.train.hardware.chips import Topology
from uio2.train.hardware.question import Question
from uio2.train.hardware.step import answer
from uio2.train.specs import OptimizerSpec, TrainSpec

ROWS, TEXT_IN, TEXT_OUT = 8, 20, 20


@pytest.fixture(scope="module")
def question():
    register = RegisterSpec(
        image_size=(96, 96), text_inputs=TEXT_IN, text_targets=TEXT_OUT, rates={"image_caption_coco_2017": 1.0}
    )
    train = TrainSpec(model="digits", batch_size=ROWS, optimizer=OptimizerSpec(name="adamw"))
    return Question(register, train, "v5e:2x4", "fsdp", {}, compiles=False)


@pytest.fixture(scope="module")
def found(question):
    return answer(question)


def test_operations_are_those_counted_by_hand(question, found):
    by_hand = train_step(ModelConfig.from_dict(question.train.model_config), Lengths(ROWS, TEXT_IN, 36, TEXT_OUT))
    assert found.flops == pytest.approx(by_hand.total, rel=0.01)


def test_what_a_plan_splits_is_an_eighth_of_it(question, found):
    whole = answer(dataclasses.replace(question, plan="data"))
    assert whole.parameter_bytes == 4 * whole.parameters
    assert whole.optimizer_bytes == pytest.approx(8 * whole.trained, rel=0.001)  # AdamW: two moments in float32
    assert whole.parameter_bytes / 8 < found.parameter_bytes < whole.parameter_bytes / 7
    assert whole.optimizer_bytes / 8 < found.optimizer_bytes < whole.optimizer_bytes / 7
    assert (found.mesh, whole.mesh) == ({"fsdp": 8}, {"data": 8})


def test_what_cannot_be_meant_is_refused(question):
    for text, what in (("v7:2x2", "one of v4"), ("v5e:2x2x2", "2 axes"), ("h100:12", "whole machines of 8")):
        with pytest.raises(UsageError, match=what):
            Topology.parse(text)
    with pytest.raises(StageError, match="8 devices times 1"):
        answer(dataclasses.replace(question, train=dataclasses.replace(question.train, batch_size=12)))
    with pytest.raises(StageError, match="product is that"):
        answer(dataclasses.replace(question, mesh={"fsdp": 4}))


@pytest.mark.long
def test_a_step_that_is_too_large_comes_with_a_change_that_fits(tmp_path, capsys, monkeypatch):
    """Compiled for two devices by XLA itself; nothing of that size is ever allocated."""
    monkeypatch.setenv("UIO2_HOME", str(tmp_path))
    status = main([
        "plan-hardware", "--gin_file=configs/finetune/refexp.gin", "--gin_file=configs/models/digits.gin",
        "--topology=cpu:2", "--json", "--price=2", "--gin.TEXT_INPUTS=20", "--gin.TEXT_TARGETS=20",
        f"--gin.BATCH_SIZE={2**14}",
    ])  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    change = told["change_that_fits"]
    assert (status, told["verdict"], change["verdict"]) == (1, "does not fit", "fits")
    assert change["options"].startswith("--gin.REMAT=")
    assert change["needed_gib"] <= change["capacity_gib"] == told["capacity_gib"] < told["needed_gib"]
    for each in (told, change):
        assert sum(each["gib_per_device"].values()) == pytest.approx(each["needed_gib"], rel=0.05)
    assert told["model_flops_per_step"] == change["model_flops_per_step"]
    assert told["cost"] == pytest.approx(2 * told["chip_hours"], rel=0.01)
    assert np.isclose(told["step_s"], told["model_flops_per_step"] / (2 * 1e12 * 0.4), rtol=0.01)
