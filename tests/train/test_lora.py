"""Adapters: beside the model while training, in its kernels for export, alone on disk."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from uio2.model.layers import GatedMLP
from uio2.model.stack import Stack
from uio2.pipeline.stage import StageError
from uio2.train import lora
from uio2.train.loop import Loop
from uio2.train.models import functional
from uio2.train.optim.names import Trainable, parameter_names
from uio2.train.optimizer import make_optimizer, schedule
from uio2.train.sharding import data_mesh
from uio2.train.specs import LoraSpec, OptimizerSpec
from uio2.train.step import initial_state, make_update

SPEC = LoraSpec(layers=("*/wi_0", "*/wo"), rank=2, alpha=8.0)


@pytest.fixture(scope="module")
def trained():
    """(module of parameters, its parameters, parameters and adapters after some steps)."""
    module, params = functional(Stack(lambda r: GatedMLP(64, 96, rngs=r), length=3, unroll=0, rngs=nnx.Rngs(0)))

    def loss(values, batch):
        stack = module(lora.merged(values, SPEC))
        out, _ = stack.scan(lambda layer, x: x + layer(x), batch["x"])
        value = jnp.mean((out - batch["y"]) ** 2)
        return value, {"loss": value}

    rng = np.random.default_rng(0)
    batch = {key: rng.standard_normal((8, 64)).astype(np.float32) for key in "xy"}
    optimizer, trainable = OptimizerSpec(learning_rate=1e-2, warmup_steps=0), Trainable(only=("adapters/*",))
    loop = Loop(
        loss=loss, batches=lambda step: iter(()), optimizer=make_optimizer(optimizer, steps=9, trainable=trainable),
        learning_rate=schedule(optimizer, steps=9), steps=9, log_every=9, checkpoint_every=9,
        mesh=data_mesh(batch_size=8), label="toy", trainable=trainable,
    )  # fmt: skip
    start = lora.parameters(jax.tree.map(jnp.copy, params), SPEC, seed=1)
    update, sums = make_update(loop, start, batch)
    state = initial_state(loop, start, sums=sums)
    losses = []
    for _ in range(8):
        state = update(state, batch, None)
        losses.append(float(state["sums"]["loss"]))
    assert losses[-1] - losses[-2] < 0.9 * losses[0], "adapters alone learn"
    return module, params, state


def test_training_moves_the_adapters_alone(trained):
    _, params, state = trained
    jax.tree.map(np.testing.assert_array_equal, state["params"]["model"], params)
    sizes = {leaf.size for leaf in jax.tree.leaves(state["optimizer"])}
    assert max(sizes) <= 3 * 96 * SPEC.rank, "no moments of kernels"
    fresh = lora.parameters(params, SPEC, seed=1)
    jax.tree.map(np.testing.assert_array_equal, lora.merged(fresh, SPEC), params)


def test_the_merged_model_computes_kernel_and_adapter(trained):
    module, params, state = trained
    merged, adapters = module(lora.merged(state["params"], SPEC)), state["params"]["adapters"]["layers"]
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    layers = list(zip(merged.unstacked(), module(params).unstacked(), strict=True))
    for i, (after, before) in enumerate(layers):
        for name, value in (("wi_0", x), ("wo", after.wi_0(x))):
            down, up = adapters[name]["down"][i], adapters[name]["up"][i]
            assert np.abs(up).max() > 1e-3
            expected = getattr(before, name)(value) + 4.0 * (value @ down) @ up
            np.testing.assert_allclose(getattr(after, name)(value), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(after.wi_1.kernel[...], before.wi_1.kernel[...])


def test_adapters_are_saved_alone_and_put_into_the_model_again(trained, tmp_path):
    _, params, state = trained
    lora.save(state["params"]["adapters"], SPEC, tmp_path / "adapters")
    adapters, spec = lora.load(tmp_path / "adapters")
    assert spec == SPEC
    again = lora.merged({"model": params, "adapters": adapters}, spec)
    jax.tree.map(np.testing.assert_array_equal, again, lora.merged(state["params"], SPEC))
    size = sum(file.stat().st_size for file in (tmp_path / "adapters").rglob("*") if file.is_file())
    assert size < 4 * sum(leaf.size for leaf in jax.tree.leaves(params)) / 4
    assert all(name.startswith("layers/w") for name in parameter_names(adapters))


def test_layers_that_are_not_there_are_named(trained):
    _, params, state = trained
    with pytest.raises(StageError, match=r"LoraSpec.layers has '\*/wi_2', which fits no .*layers/wi_"):
        lora.parameters(params, LoraSpec(layers=("*/wi_2",)), seed=0)
    _, other = functional(Stack(lambda r: GatedMLP(64, 80, rngs=r), length=3, unroll=0, rngs=nnx.Rngs(0)))
    with pytest.raises(StageError, match=r"adapter layers/wi_0/up has shape \(3, 2, 96\); expected \(3, 2, 80\)"):
        lora.merged({"model": other, "adapters": state["params"]["adapters"]}, SPEC)


def test_dropout_hides_input_features_by_the_step_and_is_made_up_for(trained):
    _, params, state = trained
    values = {"model": params, "adapters": state["params"]["adapters"]}
    spec = LoraSpec(layers=SPEC.layers, rank=2, alpha=8.0, dropout=0.25)
    make = jax.jit(lambda step: lora.dropped(values, spec, step=step, seed=3)["adapters"]["layers"]["wi_0"]["down"])
    whole = np.asarray(values["adapters"]["layers"]["wi_0"]["down"])
    found = [np.asarray(make(step)) for step in (5, 5, 6)]
    hidden = [(down == 0).all(axis=-1) for down in found]
    np.testing.assert_array_equal(found[0], found[1])
    assert (hidden[0] != hidden[2]).any()
    assert 0.1 < hidden[0].mean() < 0.4
    np.testing.assert_allclose(found[0][~hidden[0]], whole[~hidden[0]] / 0.75, rtol=1e-6)
    assert (hidden[0][0] != hidden[0][1]).any(), "layers of a stack are told apart"
