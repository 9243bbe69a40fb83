"""The training loop goes on exactly where a kill left it, and its stages fit the data."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from uio2.model.layers import Embedding, GatedMLP
from uio2.model.stack import Stack
from uio2.pipeline.stage import StageContext, StageError
from uio2.train.loop import Interrupted, Loop, train
from uio2.train.models import functional
from uio2.train.optimizer import make_optimizer, schedule
from uio2.train.sharding import data_mesh
from uio2.train.specs import OptimizerSpec, TrainSpec

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
            yield {"x": x * (np.nan if poison is not None and step >= poison else 1), "y": x.sum(1, keepdims=True)}
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


def test_a_run_killed_anywhere_equals_an_undisturbed_one(tmp_path):
    expected, history = train(make_loop(), initial(), context(tmp_path / "calm"))
    assert history[-1]["loss"] < history[0]["loss"] / 2
    for die_at in (3, 9, 13, 23):
        with pytest.raises(Killed):
            train(make_loop(die_at=die_at), initial(), context(tmp_path / "killed"))
    params, again = train(make_loop(), initial(), context(tmp_path / "killed"))
    assert again == history
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), params, expected)))
    lines = (tmp_path / "killed" / "work" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(4, STEPS + 1, 4))


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

    _, history = train(dataclasses.replace(loop, batches=watch), initial(), context(tmp_path))
    assert started == [10]
    assert [row["step"] for row in history] == list(range(4, STEPS + 1, 4))


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path):
    with pytest.raises(StageError, match=r"not finite in the 4 steps up to 12; lower the learning rate"):
        train(make_loop(poison=5), initial(), context(tmp_path))


def test_batches_split_over_devices_train_alike():
    code = textwrap.dedent("""
        import json, pathlib, sys, tempfile
        from tests.train.test_loop import context, initial, make_loop
        from uio2.train.loop import train
        with tempfile.TemporaryDirectory() as folder:
            _, history = train(make_loop(), initial(), context(pathlib.Path(folder)))
        print(json.dumps([row["loss"] for row in history]))
    """)
    losses = []
    for devices in (1, 4):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        losses.append(json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


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
