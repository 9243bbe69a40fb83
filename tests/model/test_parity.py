"""The model computes what the original does: logits, losses, gradients and decoded tokens."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from tests.model.reference import GOLDEN, SPEC, load_case, needs_golden, parameters
from uio2.model import ModelConfig, multimodal_loss
from uio2.model.checkpoint import t5x, tree
from uio2.model.generate import generate
from uio2.model.rotary import grid_rotary, text_rotary
from uio2.model.vit import VisionTransformer

CASES = ("a_text2text", "a2_text_subsegments", "b_image_text2text")


@needs_golden
@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_agree(name):
    case = load_case(name)

    def loss(model):
        outputs = model(case.batch)
        value, metrics = multimodal_loss(outputs, z_loss=1e-4)
        return value, (outputs, metrics)

    (value, (outputs, metrics)), gradients = nnx.value_and_grad(loss, has_aux=True)(case.model)
    kept = case.arrays["text/loss_mask"] > 0
    stride = case.figures["text/logits"]["vocab_stride"]
    logits = np.asarray(outputs["text"].logits)
    assert np.abs(logits[:, :, ::stride] - case.arrays["text/logits_strided"])[kept].max() < 2e-4
    assert float(value) == pytest.approx(case.figures["loss"], rel=1e-5)
    for key in ("text/loss", "text/z_loss", "text/cross_ent_loss", "text/accuracy", "text/nonpadding_fraction"):
        assert float(metrics[key]) == pytest.approx(case.figures["metrics"][key], rel=1e-5), key
    ours = t5x.to_tree(nnx.merge(nnx.graphdef(case.model), gradients))
    for path, norm in case.figures["grad_l2"].items():
        assert np.linalg.norm(ours[path]) == pytest.approx(norm, rel=1e-3), path
    frozen = [path for path, value in ours.items() if "vision_transformer" in path and np.any(value)]
    assert not frozen, "the vision transformer is frozen, yet has gradients"


@needs_golden
def test_greedy_decoding_agrees():
    case = load_case("b_image_text2text")
    with np.load(GOLDEN / "decoding.npz") as stored:
        tokens, gaps = stored["text/beam1/text-tokens"], stored["text/teacher_forced_top1_minus_top2"]
    output = generate(case.model, case.batch, max_length=16)
    assert gaps.min() > 1e-4, "a tie would make the comparison meaningless"
    ended = np.cumsum(tokens == 1, axis=1) - (tokens == 1) > 0  # ours stops at EOS, the original goes on
    np.testing.assert_array_equal(np.where(ended, 0, tokens), output.tokens)


@needs_golden
def test_vision_transformer_and_positions_agree():
    config = ModelConfig.from_reference(json.loads((GOLDEN / "config.json").read_text()))
    model = t5x.from_tree(parameters(config), config=config)
    with np.load(GOLDEN / "intermediates.npz") as stored:
        expected = stored["image_vit/pos_emb_bicubic_24x24"]
        text, grid = stored["rope/text_1d_len16_head128"], stored["rope/image_input_24x24_head16_scale4over3"]
    vit: VisionTransformer = model.image_input.vit
    np.testing.assert_allclose(vit.position_table().reshape(24, 24, -1), expected, atol=2e-6)
    np.testing.assert_allclose(text_rotary(np.arange(16), head_dim=128).reshape(16, 128), text, atol=2e-6)
    ours = grid_rotary(np.arange(576), columns=24, head_dim=16, scale=4 / 3).reshape(576, 16)
    np.testing.assert_allclose(ours, grid, atol=2e-5)


@needs_golden
@pytest.mark.parametrize("size", ["tiny", "base", "large", "xl", "xxl"])
def test_parameter_names_and_shapes_are_the_published_ones(size):
    published = json.loads((SPEC / "layout" / f"params_{size}.json").read_text())["params"]
    ours = t5x.expected_shapes(ModelConfig.preset(size))
    assert {path: tuple(value["shape"]) for path, value in published.items()} == ours


@needs_golden
def test_t5x_tree_round_trips_and_names_what_does_not_fit():
    config = dataclasses.replace(
        ModelConfig.from_reference(json.loads((GOLDEN / "config.json").read_text())), input_modalities=("text",)
    )
    flat = parameters(config)
    back = t5x.to_tree(t5x.from_tree(flat, config=config))
    assert back.keys() == flat.keys()
    assert all(np.array_equal(back[path], flat[path]) for path in flat)
    broken = dict(flat)
    del broken["encoder/encoder_norm/scale"]
    broken["decoder/decoder_norm/scale"] = np.zeros(3, np.float32)
    broken["stray"] = np.zeros(1, np.float32)
    with pytest.raises(tree.CheckpointError) as error:
        t5x.from_tree(broken, config=config)
    for part in (
        "missing encoder/encoder_norm/scale",
        "misshapen decoder/decoder_norm/scale",
        "unexpected stray",
        "(3,)",
    ):
        assert part in str(error.value)


def test_jax_runs_in_full_precision():
    a = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(lambda x: x @ x)(a), a @ a, atol=1e-4)
