"""The training step: microbatches, skipped steps, the moving average, norms, what is frozen."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uio2.model import ModalityOutput, multimodal_loss
from uio2.pipeline.stage import StageError
from uio2.train.loop import Loop
from uio2.train.optim.names import Trainable
from uio2.train.optimizer import make_optimizer
from uio2.train.sharding import data_mesh
from uio2.train.specs import OptimizerSpec, StepSpec, TrainSpec
from uio2.train.step import initial_state, make_update, published

ROWS, TOKENS, WIDTH = 8, 6, 5


def outputs(params, batch):
    """Two target modalities on one layer, so that their token counts matter."""
    hidden = jnp.tanh(batch["x"] @ params["layer"]["kernel"])
    return {
        name: ModalityOutput(hidden @ params[name]["kernel"], batch[f"{name}/targets"], batch[f"{name}/mask"])
        for name in ("text", "image")
    }


def loss(params, batch, *, tokens=None):
    return multimodal_loss(outputs(params, batch), z_loss=0.01, tokens=tokens)


def initial():
    rng = np.random.default_rng(0)
    shapes = {"layer": (WIDTH, 7), "text": (7, 11), "image": (7, 13)}
    return {k: {"kernel": jnp.asarray(rng.standard_normal(s), jnp.float32)} for k, s in shapes.items()}


def batch(seed: int = 0, *, poison: float = 1.0):
    """Rows with very different numbers of tokens."""
    rng = np.random.default_rng(seed)
    counts = {"text": np.array([6, 1, 5, 1, 0, 2, 6, 3]), "image": np.array([0, 6, 0, 0, 1, 0, 0, 6])}
    return {"x": (rng.standard_normal((ROWS, TOKENS, WIDTH)) * poison).astype(np.float32)} | {
        f"{name}/{part}": value
        for name, size in (("text", 11), ("image", 13))
        for part, value in {
            "targets": rng.integers(0, size, (ROWS, TOKENS)).astype(np.int32),
            "mask": (np.arange(TOKENS) < counts[name][:, None]).astype(np.float32),
        }.items()
    }


def make_loop(step: StepSpec | None = None, **fields) -> Loop:
    values = {
        "optimizer": optax.sgd(0.1),
        "tokens": lambda p, b: {k: v.loss_mask.sum() for k, v in outputs(p, b).items()},
    }
    return Loop(
        loss=loss, batches=lambda step: iter(()), learning_rate=optax.constant_schedule(0.1), steps=9, log_every=9,
        checkpoint_every=9, mesh=data_mesh(batch_size=8), label="toy", step=step or StepSpec(), **(values | fields),
    )  # fmt: skip


def run(loop: Loop, *batches):
    """The states after each batch; the first is the one before."""
    update, sums = make_update(loop, initial(), batches[0])
    states = [initial_state(loop, initial(), sums=sums)]
    for one in batches:
        states.append(update(jax.tree.map(jnp.copy, states[-1]), one, None))
    return states


def close(found, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


def equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_microbatches_make_the_step_of_the_whole_batch():
    _, whole = run(make_loop(), batch())
    for count in (2, 8):
        _, parts = run(make_loop(StepSpec(microbatches=count)), batch())
        close(parts["params"], whole["params"], rtol=1e-6, atol=1e-6)
        close(parts["sums"], whole["sums"], rtol=1e-6)
    _, unweighted = run(make_loop(StepSpec(microbatches=4), tokens=None), batch())
    assert abs(float(unweighted["sums"]["loss"]) - float(whole["sums"]["loss"])) > 0.01, "the test would see it"


def test_the_original_summed_microbatches_each_divided_by_its_own_tokens():
    _, found = run(make_loop(StepSpec(microbatches=2, sum_microbatches=True)), batch())
    halves = [{k: v[i::2] for k, v in batch().items()} for i in range(2)]
    moves = [jax.tree.map(lambda a, b: a - b, run(make_loop(), half)[1]["params"], initial()) for half in halves]
    close(
        found["params"], jax.tree.map(lambda start, *each: start + sum(each), initial(), *moves), rtol=1e-5, atol=1e-6
    )


def test_rows_that_do_not_split_are_refused():
    with pytest.raises(StageError, match="a batch of 8 rows in 3 microbatches"):
        run(make_loop(StepSpec(microbatches=3)), batch())
    with pytest.raises(StageError, match=r"batch_size is 8; expected a multiple of StepSpec.microbatches 3"):
        TrainSpec(batch_size=8, step=StepSpec(microbatches=3))


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    spec = OptimizerSpec(name="adamw", warmup_steps=0)
    loop = make_loop(StepSpec(ema_decay=0.5), optimizer=make_optimizer(spec, steps=9))
    states = run(loop, batch(0), batch(1, poison=np.nan), batch(2, poison=np.inf), batch(3))
    for bad in (2, 3):
        equal({k: states[bad][k] for k in ("params", "ema")}, {k: states[1][k] for k in ("params", "ema")})
        moments = [[a for a in jax.tree.leaves(s["optimizer"]) if a.ndim] for s in (states[bad], states[1])]
        equal(*moments)
    counters = [tuple(int(s[k]) for k in ("steps", "skipped", "skipped_in_a_row")) for s in states]
    assert counters == [(0, 0, 0), (1, 0, 0), (2, 1, 1), (3, 2, 2), (4, 2, 0)]
    sums, good = states[-1]["sums"], [run(loop, batch(0))[1]["sums"]["loss"]]
    assert float(sums["skipped"]) == 2
    assert float(states[3]["sums"]["loss"]) == float(good[0]), "sums are over what was not skipped"
    assert np.isfinite(float(sums["loss"]))
    _, bare = run(make_loop(StepSpec(skip_nonfinite=False)), batch(1, poison=np.nan))
    assert np.isnan(float(bare["sums"]["loss"]))


def test_the_average_follows_what_is_trained_and_is_what_training_hands_on():
    loop = make_loop(StepSpec(ema_decay=0.75, ema_from=1, norms=True), trainable=Trainable(frozen=("image/*",)))
    states = run(loop, batch(0), batch(1), batch(2))
    expected = states[1]["params"]
    for state in states[2:]:
        expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, expected, state["params"])
    close(published(loop, states[-1]), expected, rtol=1e-6)
    equal(states[-1]["params"]["image"], initial()["image"])
    assert len(jax.tree.leaves(states[-1]["ema"])) == 2, "no average of what is frozen"
    last = dataclasses.replace(loop, step=StepSpec(ema_decay=0.75, publish_ema=False))
    equal(published(last, states[-1]), states[-1]["params"])
    moved = jax.tree.map(lambda a, b: a - b, states[1]["params"], initial())
    assert float(states[1]["sums"]["update_norm"]) == pytest.approx(float(optax.global_norm(moved)), rel=1e-4)
    trained = {k: states[1]["params"][k] for k in ("layer", "text")}
    assert float(states[1]["sums"]["parameter_norm"]) == pytest.approx(float(optax.global_norm(trained)), rel=1e-6)
