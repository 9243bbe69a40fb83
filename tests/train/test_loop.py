"""The training loop goes on exactly where a kill left it, and its stages fit the data."""

import dataclasses
import gzip
import itertools
import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from uio2.model.layers import Embedding, GatedMLP
from uio2.model.stack import Stack
from uio2.pipeline.stage import StageContext, StageError, UsageError
from uio2.train.evaluation_spec import EvaluationSpec
from uio2.train.loop import Interrupted, Loop, train
from uio2.train.meters import goodput
from uio2.train.models import functional
from uio2.train.optimizer import make_optimizer, schedule
from uio2.train.sharding import data_mesh
from uio2.train.specs import AlarmSpec, OptimizerSpec, SavingSpec, TrainSpec

STEPS = 24


class Killed(Exception):
    """Stands for the moment a process dies."""


def make_loop(*, die_at: int | None = None, poison: int | None = None) -> Loop:
    def batches(step):
        while True:
            if step == die_at:
                raise Killed
            rng = np.random.default_rng(step)
            x = rng.standard_normal((8, 4)).astype(np.float32)
            wrong = poison is not None and step >= poison
            yield {"x": x * (np.nan if wrong else 1), "y": x.sum(1, keepdims=True)}
            step += 1

    def loss(params, batch):
        value = jnp.mean((jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]) ** 2)
        return value, {"loss": value}

    spec = OptimizerSpec(learning_rate=0.02, warmup_steps=4)
    return Loop(
        loss=loss, batches=batches, optimizer=make_optimizer(spec, steps=STEPS),
        learning_rate=schedule(spec, steps=STEPS), steps=STEPS, log_every=4, checkpoint_every=3,
        mesh=data_mesh(batch_size=8), label="toy",
    )  # fmt: skip


def initial() -> dict:
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.standard_normal((4, 6)), jnp.float32), "v": jnp.ones((6, 1), jnp.float32)}


def context(folder) -> StageContext:
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return StageContext({}, folder / "out", folder / "work", lambda *_: None, lambda *_: None)


def equal(one, two) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, two)))


def test_a_run_killed_anywhere_equals_an_undisturbed_one(tmp_path):
    calm = train(make_loop(), initial(), context(tmp_path / "calm"))
    expected, history = calm.params, calm.history
    assert history[-1]["loss"] < history[0]["loss"] / 2
    for die_at in (3, 9, 13, 23):
        with pytest.raises(Killed):
            train(make_loop(die_at=die_at), initial(), context(tmp_path / "killed"))
    again = train(make_loop(), initial(), context(tmp_path / "killed"))
    assert again.history == history
    assert equal(again.params, expected)
    lines = (tmp_path / "killed" / "work" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(4, STEPS + 1, 4))


def test_what_a_run_costs_is_measured_across_restarts_and_no_part_of_the_history(tmp_path):
    rows = {}

    def measured(folder):
        return dataclasses.replace(context(folder), metric=lambda step, values: rows.update({step: values}))

    with pytest.raises(Killed):
        train(make_loop(die_at=17), initial(), measured(tmp_path))  # step 15 is saved: 16 and 17 are done twice
    before = goodput(tmp_path / "work")
    loop = make_loop()

    def slow(step):
        for batch in loop.batches(step):
            time.sleep(0.05)
            yield batch

    history = train(dataclasses.replace(loop, batches=slow), initial(), measured(tmp_path)).history
    after = goodput(tmp_path / "work")
    assert (before["attempts"], after["attempts"]) == (1, 2)
    assert 0 < after["goodput"] < 1
    assert 0.5 < rows[STEPS]["time/input"] < 1
    assert rows[STEPS]["speed/steps_per_s"] < 20
    assert rows[STEPS]["memory/host_gib"] > 0.01
    assert rows[16]["time/compile"] > 0
    assert "time/input" not in history[-1]
    lines = [json.loads(line) for line in (tmp_path / "work" / "goodput.jsonl").read_text().splitlines()[1:]]
    first = next(line for line in lines if line["attempt"] == 2)
    kept = [line for line in lines if line["attempt"] == 1 and line["step"] <= 15][-1]
    assert kept["productive_s"] <= first["productive_s"] < lines[-1]["productive_s"] < lines[-1]["wall_s"]


def test_a_profile_is_a_trace_of_the_steps_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UIO2_PROFILE", "5:3")
    train(make_loop(), initial(), dataclasses.replace(context(tmp_path), logs=tmp_path / "logs" / "run"))
    (trace,) = (tmp_path / "logs" / "run" / "profile").rglob("*.trace.json.gz")
    assert f"trace of 3 steps: {trace}" in capsys.readouterr().out
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert {event["args"]["step_num"] for event in events if event.get("name") == "train"} == {"5", "6", "7"}
    monkeypatch.setenv("UIO2_PROFILE", "5")
    with pytest.raises(UsageError, match="expected START:STEPS"):
        train(make_loop(), initial(), context(tmp_path / "again"))


def test_sigterm_saves_and_the_next_run_goes_on(tmp_path):
    loop = make_loop()

    def batches(step):
        for batch in loop.batches(step):
            if step == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch
            step += 1

    with pytest.raises(Interrupted, match=r"step 10 of 24"):
        train(dataclasses.replace(loop, batches=batches), initial(), context(tmp_path))
    started = []

    def watch(step):
        started.append(step)
        return loop.batches(step)

    history = train(dataclasses.replace(loop, batches=watch), initial(), context(tmp_path)).history
    assert started == [10]
    assert [row["step"] for row in history] == list(range(4, STEPS + 1, 4))


def test_losses_that_are_not_finite_stop_with_advice_and_examples(tmp_path):
    alarms = AlarmSpec(nonfinite_steps=3)
    loop = dataclasses.replace(
        make_loop(poison=5),
        alarms=alarms,
        log_every=STEPS,
        describe=lambda step: [{"task": "toy", "record": 10 * step}],
    )
    with pytest.raises(StageError, match=r"3 steps in a row were not finite, the last of them step 8; .* toy 80;"):
        train(loop, initial(), context(tmp_path))
    found = json.loads((tmp_path / "work" / "bad_batches.json").read_text())
    assert found == {str(step): [{"task": "toy", "record": 10 * step}] for step in (6, 7, 8)}


def test_a_log_row_without_a_finite_step_stops(tmp_path):
    with pytest.raises(StageError, match=r"not finite in the 4 steps up to step 12; lower the learning rate"):
        train(make_loop(poison=8), initial(), context(tmp_path))


def test_a_loss_that_jumps_is_a_warning(tmp_path, capsys):
    loop = make_loop()

    def batches(step):
        for number, batch in enumerate(loop.batches(step), step):
            yield {**batch, "y": batch["y"] + (100 if number == 21 else 0)}

    train(dataclasses.replace(loop, batches=batches), initial(), context(tmp_path))
    said = capsys.readouterr().out
    assert "the loss of step 22 is" in said
    assert said.count("warning") == 1


def test_data_that_ends_is_an_error_and_not_the_end(tmp_path):
    loop = make_loop()
    few = dataclasses.replace(loop, batches=lambda step: itertools.islice(loop.batches(step), 7 - step))
    with pytest.raises(StageError, match="the data ended after step 7 of 24"):
        train(few, initial(), context(tmp_path))


def test_a_full_device_is_advice(tmp_path):
    def huge(params, batch):
        value = jnp.mean(jnp.broadcast_to(batch["x"], (1 << 30, 8, 4)) @ params["w"])
        return value, {"loss": value}

    with pytest.raises(StageError, match=r"not enough memory .* microbatches"):
        train(dataclasses.replace(make_loop(), loss=huge), initial(), context(tmp_path))


def test_checkpoints_are_kept_by_policy_and_by_time(tmp_path):
    handed = {}
    loop = dataclasses.replace(
        make_loop(), saving=SavingSpec(minutes=0, keep_last=1, keep_every=9, keep_best=1),
        keep=lambda step, params: handed.update({step: params}),
    )  # fmt: skip
    history = train(loop, initial(), context(tmp_path)).history
    losses = {step: next(r["loss"] for r in reversed(history) if r["step"] <= step) for step in range(6, STEPS, 3)}
    assert sorted(handed) == sorted({9, 18, min(losses, key=losses.get)})
    assert {int(path.name) for path in (tmp_path / "work" / "checkpoints").iterdir()} == {*handed, 21}
    until = train(dataclasses.replace(make_loop(), steps=9), initial(), context(tmp_path / "until")).params
    assert equal(until, handed[9])
    often = dataclasses.replace(loop, saving=SavingSpec(minutes=1e-9, keep_last=100), checkpoint_every=1000)
    train(often, initial(), context(tmp_path / "often"))
    assert len(list((tmp_path / "often" / "work" / "checkpoints").iterdir())) == STEPS - 1


def far_off(params):
    """A figure that falls and rises: how far a weight is from one that it passes."""
    return {"validation/far": abs(float(params["v"][0, 0]) - 0.9)}


def test_the_best_by_a_figure_of_the_evaluation_is_handed_on(tmp_path):
    saving = SavingSpec(minutes=0, keep_last=1, keep_best=1, best_metric="validation/far", publish="best")
    loop = dataclasses.replace(
        make_loop(), log_every=1, saving=saving, evaluation=EvaluationSpec(every=3), evaluate=far_off,
    )  # fmt: skip
    found = train(loop, initial(), context(tmp_path / "calm"))
    figures = {row["step"]: row["validation/far"] for row in found.history if "validation/far" in row}
    assert list(figures) == list(range(3, STEPS + 1, 3))
    assert found.step == min(figures, key=figures.get)
    assert found.step not in (3, STEPS), "the case means something only if the best lies between"
    assert far_off(found.params)["validation/far"] == figures[found.step]
    until = train(dataclasses.replace(make_loop(), steps=found.step), initial(), context(tmp_path / "until"))
    assert equal(found.params, until.params)
    dying = make_loop(die_at=found.step + 5).batches
    with pytest.raises(Killed):
        train(dataclasses.replace(loop, batches=dying), initial(), context(tmp_path / "killed"))
    again = train(loop, initial(), context(tmp_path / "killed"))
    assert (again.step, again.history) == (found.step, found.history)
    assert equal(again.params, found.params)


def test_a_metric_that_the_log_does_not_have_is_named(tmp_path):
    saving = SavingSpec(keep_best=1, best_metric="validation/acc")
    with pytest.raises(StageError, match=r"best_metric is 'validation/acc'; the log has .*learning_rate, loss"):
        train(dataclasses.replace(make_loop(), log_every=1, saving=saving), initial(), context(tmp_path))


def test_a_checkpoint_without_the_figure_is_not_the_best(tmp_path):
    """A task without an example since the last row, or a loss that is no number, has no figure at that step."""

    def now_and_then(params):
        found = far_off(params)["validation/far"]
        return {"task/far": found} if found < 0.1 else {}  # so the last steps have none

    saving = SavingSpec(minutes=0, keep_last=1, keep_best=1, best_metric="task/far", publish="best")
    loop = dataclasses.replace(
        make_loop(), log_every=1, saving=saving, evaluation=EvaluationSpec(every=3),
        evaluate=now_and_then,
    )  # fmt: skip
    found = train(loop, initial(), context(tmp_path))
    figures = {row["step"]: row["task/far"] for row in found.history if "task/far" in row}
    assert 1 < len(figures) < STEPS // 3
    assert STEPS not in figures, "some steps have the figure, the last has not"
    assert found.step == min(figures, key=figures.get)


def test_a_checkpoint_of_another_order_of_data_is_refused(tmp_path):
    with pytest.raises(Killed):
        train(dataclasses.replace(make_loop(die_at=7), order="one"), initial(), context(tmp_path))
    with pytest.raises(StageError, match="trained on other data, or on the same in another order"):
        train(dataclasses.replace(make_loop(), order="other"), initial(), context(tmp_path))


def test_schedule_warms_up_and_decays():
    rate = schedule(OptimizerSpec(learning_rate=1.0, warmup_steps=10, final_fraction=0.1), steps=100)
    assert float(rate(0)) == 0.0
    assert float(rate(10)) == pytest.approx(1.0)
    assert float(rate(100)) == pytest.approx(0.1)
    assert float(rate(40)) > float(rate(80))
    held = schedule(OptimizerSpec(learning_rate=1.0, warmup_steps=10, hold_fraction=0.5, final_fraction=0.1), steps=110)
    assert [float(held(step)) for step in (10, 35, 59)] == pytest.approx([1.0, 1.0, 1.0])
    assert float(held(85)) == pytest.approx(0.55, abs=0.01)
    assert float(held(110)) == pytest.approx(0.1)
    at_once = schedule(OptimizerSpec(learning_rate=1.0, warmup_steps=0), steps=10)
    assert float(at_once(0)) == pytest.approx(1.0)


def test_muon_moves_the_kernels_of_a_model_equally_far_in_all_directions():
    _, params = functional(Stack(lambda r: GatedMLP(16, 8, rngs=r), length=2, unroll=0, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)

    def lopsided(leaf):  # a gradient with one direction that dominates
        return jnp.asarray(rng.standard_normal(leaf.shape) * np.logspace(0, -1, leaf.shape[-1]), jnp.float32)

    spec = OptimizerSpec(name="muon", learning_rate=1e-2, adam_learning_rate=1e-3, warmup_steps=0, weight_decay=0.0)
    rule = make_optimizer(spec, steps=10)
    updates, _ = rule.update(jax.tree.map(lopsided, params), rule.init(params), params)
    stacks = [np.asarray(leaf) for leaf in jax.tree.leaves(updates)]
    assert len(stacks) == 3
    for layer in (layer for stack in stacks for layer in stack):
        assert np.sqrt(np.mean(layer**2)) == pytest.approx(0.2 * 1e-2, rel=0.3)
        directions = np.linalg.svd(layer, compute_uv=False)
        assert directions[0] / directions[-1] < 2


def test_muon_leaves_tables_to_adamw_at_its_own_rate():
    _, params = functional(Embedding(16, 8, rngs=nnx.Rngs(0)))
    spec = OptimizerSpec(name="muon", learning_rate=1e-2, adam_learning_rate=1e-3, warmup_steps=0)
    rule = make_optimizer(spec, steps=10)
    updates, _ = rule.update(jax.tree.map(jnp.ones_like, params), rule.init(params), params)
    (table,) = jax.tree.leaves(updates)
    assert ((table > -2e-3) & (table < -0.5e-3)).all()  # Nesterov's first step is half as long again


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(StageError, match=r"TrainSpec\.steps is 0"):
        TrainSpec(steps=0)
    with pytest.raises(StageError, match=r"OptimizerSpec\.name is 'adam'; expected one of adamw, muon"):
        OptimizerSpec(name="adam")
    with pytest.raises(StageError, match=r"adam_learning_rate is for name 'muon'"):
        OptimizerSpec(adam_learning_rate=1e-3)
