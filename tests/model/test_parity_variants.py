"""What the original computes with its switches turned: masked inputs, budgets, other placements of the same batch."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from tests.model.reference import GOLDEN, golden_model, load_case, needs_golden, stored_codes
from uio2.model import multimodal_loss


def loss_of(model, batch, **options) -> float:
    """The loss of a jitted forward pass."""
    graph, state = nnx.split(model)
    return float(jax.jit(lambda s: multimodal_loss(nnx.merge(graph, s)(batch, **options), z_loss=1e-4)[0])(state))


@pytest.fixture(scope="module")
def text_to_image():
    case = load_case("c_text2image")
    return case, json.loads((GOLDEN / "forward_c_variants.json").read_text())


@needs_golden
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("base", {}),
        ("unk_mask_token", {"unk_mask_token": True}),
        ("shift_back", {"shift_back_input_token": True}),
        ("unk_and_shift", {"unk_mask_token": True, "shift_back_input_token": True}),
        ("no_qk_norm", {"qk_norm": False}),
    ],
)
def test_switches_of_the_image_target_agree(text_to_image, name, changes):
    case, expected = text_to_image
    model = golden_model(dataclasses.replace(case.model.config, **changes))
    assert loss_of(model, case.batch | stored_codes(case)) == pytest.approx(expected[name], rel=1e-5)


@needs_golden
@pytest.mark.slow
def test_frames_beyond_the_budget_are_lost_as_in_the_original():
    case = load_case("f_history_text2text")
    expected = json.loads((GOLDEN / "forward_f_constraint.json").read_text())
    model = case.model.with_modalities(inputs=("text", "image", "image_history"))
    batch = {k: v for k, v in case.batch.items() if "audio" not in k}
    assert loss_of(model, batch) == pytest.approx(expected["use_constraints=False"], rel=1e-5)
    tight = {"inputs/image_history": 2}
    assert loss_of(model, batch, budget=tight) == pytest.approx(expected["use_constraints=True"], rel=1e-5)
    enough = {"inputs/image_history": 6, "inputs/image": 1}
    assert loss_of(model, batch, budget=enough) == pytest.approx(expected["use_constraints=False"], rel=1e-5)


@needs_golden
@pytest.mark.slow
def test_every_placement_of_a_batch_has_the_same_loss():
    case = load_case("h_packed")
    expected = json.loads((GOLDEN / "forward_h_unpacked.json").read_text())["h_packed_loss_without_packing"]
    batch = case.batch | stored_codes(case)
    placements = (
        {},
        {"fold": 4, "horizontally_pack_inputs": 1000, "horizontally_pack_targets": 1700},
        {"fold": 2},
        {"horizontally_pack_targets": 1100},
    )
    for options in placements:
        assert loss_of(case.model, batch, **options) == pytest.approx(expected, rel=1e-5), options


@needs_golden
@pytest.mark.slow
@pytest.mark.parametrize("name", ["c_text2image", "e_text2audio"])
def test_codes_made_on_the_way_are_the_originals(name):
    case = load_case(name)
    outputs = case.model.target_tokens(case.batch)
    kind = "image" if "image" in outputs else "audio"
    np.testing.assert_array_equal(outputs[kind].targets, case.arrays[f"{kind}/targets"])
