"""Optimizers, learning-rate schedules, and which parameters they are for."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.model.reference import GOLDEN, needs_golden, parameter, seeded
from uio2.pipeline.stage import StageError
from uio2.train.optim.adafactor import adafactor
from uio2.train.optim.names import Trainable, parameter_names
from uio2.train.optimizer import make_optimizer, schedule
from uio2.train.specs import OptimizerSpec

RSQRT = "constant * linear_warmup * rsqrt_decay"
CONFIGS = ("uio2_refexp", "no_momentum_noclip", "weight_decay", "no_param_scale", "step_offset_100")


def ours(path: str) -> str:
    """The golden trees have T5X names; what they say about a parameter is where ours say it."""
    return path.replace("target_encoders_image/discrete_vae", "image_target/codec").replace(
        "target_encoders_audio/discrete_vae", "audio_target/codec"
    )


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "adafactor.json").read_text()), np.load(GOLDEN / "adafactor.npz")


@needs_golden
@pytest.mark.parametrize("name", CONFIGS)
def test_adafactor_goes_the_way_of_the_original(golden, name):
    about, arrays = golden
    tree, settings = about["tree"], about["configs"][name]
    spec = OptimizerSpec(
        name="adafactor", schedule=RSQRT, learning_rate=0.5, warmup_steps=2000, b1=settings["beta1"] or 0.0,
        decay_rate=settings["decay_rate"], step_offset=settings.get("step_offset", 0),
        weight_decay=settings.get("weight_decay_rate"), clip_update=settings.get("clipping_threshold", 1.0),
        parameter_scale=settings.get("multiply_by_parameter_scale", True),
    )  # fmt: skip
    clip = settings.get("global_norm_clip_threshold")
    rate = schedule(spec, steps=1)
    rule = adafactor(spec, rate=lambda step: rate(step) + 0.01)
    rule = optax.chain(optax.clip_by_global_norm(clip) if clip else optax.identity(), rule)
    params = {
        ours(path): parameter(f"adafactor/{path}", tuple(leaf["shape"])) * (path != "zero_param/kernel")
        for path, leaf in tree.items()
    }
    update, state = jax.jit(rule.update), rule.init(params)
    for step in range(5):
        grads = {
            ours(path): seeded(f"adafactor_grad/{step}/{path}", tuple(leaf["shape"])) * np.float32(leaf["grad_scale"])
            for path, leaf in tree.items()
        }
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if (after := f"after_{step + 1}") not in about["results"][name]:
            continue
        for path in tree:
            found = np.asarray(params[ours(path)]).ravel()
            expected = arrays[f"{name}/{after}/{path}"]
            np.testing.assert_allclose(
                found[:: max(1, found.size // 512)][:512], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).mean()
            )
            stored = about["results"][name][after][path]
            for slot in ("v_row", "v_col", "v", "m"):
                norm = np.linalg.norm(np.asarray(getattr(state[1], slot)[ours(path)], np.float64))
                assert norm == pytest.approx(stored[slot]["l2"], rel=2e-6), (path, slot)


@needs_golden
def test_schedules_of_factors_are_those_of_the_original(golden):
    for about, rates in golden[0]["learning_rates"].items():
        factors, numbers = about.split(" | ")
        base, warmup = (float(part.split("=")[1]) for part in numbers.split())
        rate = schedule(OptimizerSpec(schedule=factors, learning_rate=base, warmup_steps=int(warmup)), steps=10)
        assert {step: float(rate(int(step))) for step in rates} == rates, about


def test_a_linear_plan_ends_at_its_fraction():
    spec = OptimizerSpec(schedule="linear", learning_rate=1.0, warmup_steps=10, hold_fraction=0.5, final_fraction=0.1)
    rate = schedule(spec, steps=110)
    assert [float(rate(step)) for step in (0, 5, 10, 59)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert float(rate(85)) == pytest.approx(0.55)
    assert float(rate(110)) == pytest.approx(0.1)


def _steps(spec: OptimizerSpec, params, *, trainable: Trainable | None = None, count: int = 3):
    """Parameters after some steps on gradients drawn by name, and the state."""
    rule = make_optimizer(spec, steps=10, trainable=trainable)
    state, update = rule.init(params), jax.jit(rule.update)
    for step in range(count):
        names = iter(parameter_names(params))
        grads = jax.tree.map(lambda leaf: jnp.asarray(seeded(f"{step}/{next(names)}", leaf.shape)), params)  # noqa: B023
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_stacked_layers_have_moments_clipping_and_scale_of_their_own():
    shapes = {"wi/kernel": (130, 140), "norm/scale": (130,)}
    layers = [{f"{i}/{k}": parameter(f"{i}/{k}", s) * 10.0**i for k, s in shapes.items()} for i in range(3)]
    stacked = {f"blocks/layers/{k}": np.stack([layers[i][f"{i}/{k}"] for i in range(3)]) for k in shapes}
    spec = OptimizerSpec(name="adafactor", schedule=RSQRT, learning_rate=0.5, warmup_steps=10, clip_norm=None,
                         weight_decay=0.01)  # fmt: skip
    rule = make_optimizer(spec, steps=10)

    def run(params, grads):
        state, update = rule.init(params), jax.jit(rule.update)
        for scale in (1.0, -0.3):
            updates, state = update(jax.tree.map(lambda g: g * scale, grads), state, params)  # noqa: B023
            params = optax.apply_updates(params, updates)
        return params, state

    grads = [{k: seeded(k, v.shape) * 10.0**-i for k, v in layer.items()} for i, layer in enumerate(layers)]
    together, state = run(
        stacked, {f"blocks/layers/{k}": np.stack([grads[i][f"{i}/{k}"] for i in range(3)]) for k in shapes}
    )
    assert state.v_row["blocks/layers/wi/kernel"].shape == (3, 130)
    for i, layer in enumerate(layers):
        alone, _ = run(layer, grads[i])
        for key in shapes:
            np.testing.assert_allclose(together[f"blocks/layers/{key}"][i], alone[f"{i}/{key}"], rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_scales_and_biases_do_not_decay_stacked_or_alone(name):
    kernels = {"blocks/layers/wi/kernel": (2, 3, 3), "projection/kernel": (3, 3)}
    vectors = {"blocks/layers/norm/scale": (2, 3), "blocks/layers/fc/bias": (2, 3), "norm/scale": (3,)}
    params = {key: jnp.ones(shape) for key, shape in (kernels | vectors).items()}
    rule = make_optimizer(OptimizerSpec(name=name, schedule="constant", weight_decay=0.1, clip_norm=None), steps=1)
    updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    assert all((updates[key] < 0).all() for key in kernels)
    assert all((updates[key] == 0).all() for key in vectors)


def test_an_entry_whose_gradient_is_nan_keeps_its_value_and_moments():
    params = {"norm/scale": jnp.ones(4)}
    rule = make_optimizer(
        OptimizerSpec(name="adafactor", schedule="constant", clip_norm=None, clip_update=None), steps=1
    )
    state = rule.init(params)
    updates, state = rule.update({"norm/scale": jnp.array([1.0, jnp.nan, -1.0, 2.0])}, state, params)
    np.testing.assert_array_equal(np.asarray(updates["norm/scale"]) == 0, [False, True, False, False])
    assert float(state.v["norm/scale"][1]) == 0


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "adafactor"])
def test_frozen_parameters_stay_and_multipliers_scale_steps(name):
    params = {"encoder/wi/kernel": {"value": jnp.ones((4, 4))}, "encoder/wo/kernel": {"value": jnp.ones((4, 4))},
              "tower/bias": {"value": jnp.ones(5)}}  # fmt: skip
    plain = OptimizerSpec(name=name, learning_rate=1e-2, warmup_steps=0, clip_norm=None)
    spec = OptimizerSpec(name=name, learning_rate=1e-2, warmup_steps=0, clip_norm=None, freeze=("tower/*",),
                         multipliers={"*/wo/*": 0.1})  # fmt: skip
    expected, _ = _steps(plain, params, count=1)
    found, state = _steps(spec, params, count=1)
    np.testing.assert_array_equal(found["tower/bias"]["value"], params["tower/bias"]["value"])
    np.testing.assert_allclose(found["encoder/wi/kernel"]["value"], expected["encoder/wi/kernel"]["value"], rtol=1e-6)
    full = expected["encoder/wo/kernel"]["value"] - 1
    np.testing.assert_allclose(found["encoder/wo/kernel"]["value"] - 1, 0.1 * full, rtol=1e-4, atol=1e-7)
    assert not any(leaf.shape == (5,) for leaf in jax.tree.leaves(state)), "no moments of what is frozen"


def test_patterns_and_settings_that_cannot_be_meant_are_refused():
    params = {"encoder/mlp/wi/kernel": jnp.ones((2, 2)), "decoder/norm/scale": jnp.ones(2)}
    for settings, message in {
        "freeze": (("encoder",), r"freeze has 'encoder', which fits no parameter; write '\*encoder\*' for encoder/mlp"),
        "multipliers": ({"*/kernle": 0.5}, r"multipliers has '\*/kernle', .*nearest are encoder/mlp/wi/kernel"),
    }.items():
        value, text = message
        with pytest.raises(StageError, match=text):
            make_optimizer(OptimizerSpec(**{settings: value}), steps=1).init(params)
    with pytest.raises(StageError, match=r"'\*kernel' and 'encoder/\*' both fit encoder/mlp|\*kernel and encoder/\*"):
        make_optimizer(OptimizerSpec(multipliers={"*kernel": 0.5, "encoder/*": 0.1}), steps=1).init(params)
    with pytest.raises(StageError, match=r"no parameter is left to be trained: \* freeze"):
        Trainable(frozen=("*",)).mask(params)
    for wrong, text in (
        ({"schedule": "constant * rsqrt"}, "of which rsqrt is unknown; expected cosine or linear, or a product"),
        ({"step_offset": 5}, "step_offset is 5 with schedule 'cosine'"),
        ({"freeze": "encoder/*"}, "expected a tuple of patterns"),
        ({"multipliers": {"*": 0.0}}, "expected more than 0"),
        ({"b1": 1.0}, "b1 is 1.0; expected 0 or more and below 1"),
    ):
        with pytest.raises(StageError, match=text.replace("*", r"\*")):
            OptimizerSpec(**wrong)
