"""Towers, resamplers and position tables give the original's numbers."""

import dataclasses
import json

import numpy as np
import pytest

from tests.model.reference import GOLDEN, golden_config, golden_model, load_case, needs_golden, parameter, seeded
from uio2.model.checkpoint import t5x, tree
from uio2.model.encoders.items import Patches
from uio2.model.rotary import grid_rotary, rotate, text_rotary

pytestmark = needs_golden
VISUAL = ("image", "image_history", "audio", "audio_history")


@pytest.fixture(scope="module")
def stored():
    with np.load(GOLDEN / "intermediates.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def sampled():
    """How each stored array was thinned out: the step of `x.ravel()[::step]`."""
    facts = json.loads((GOLDEN / "intermediates.json").read_text())
    steps = {}
    for name, fact in facts.items():
        how = fact.get("stored", "") if isinstance(fact, dict) else ""
        steps[name] = int(how.split("::")[1].rstrip("]")) if "ravel" in how else None
    return steps


@pytest.fixture(scope="module")
def case():
    return load_case("g_everything")


def check(name, ours, stored, sampled, *, atol):
    step = sampled[name]
    ours = np.asarray(ours)
    ours = ours.ravel()[::step][: stored[name].size] if step else ours.reshape(stored[name].shape)
    np.testing.assert_allclose(ours, stored[name], atol=atol, err_msg=name)


def test_image_tower_agrees(case, stored, sampled):
    vit, config = case.model.image_vit, case.model.config
    items = Patches.of(case.batch, "inputs/image")
    both = np.asarray(vit(items.values, mask=items.mask, pos_ids=items.pos_ids, grid=config.image_grid))
    width = config.image_vit.emb_dim
    check("image_vit/g_inputs/out_last", both[..., :width], stored, sampled, atol=1e-4)
    check("image_vit/g_inputs/out_layer1", both[..., width:], stored, sampled, atol=1e-4)
    frames = Patches.of(case.batch, "inputs/image_history")
    last = vit.last(frames.values, mask=frames.mask, pos_ids=frames.pos_ids, grid=config.image_history_grid)
    check("image_vit/history_g_inputs/out_last", last, stored, sampled, atol=1e-4)


def test_audio_tower_agrees(case, stored, sampled):
    vit, config = case.model.audio_vit, case.model.config
    items = Patches.of(case.batch, "inputs/audio")
    both = np.asarray(vit(items.values, mask=items.mask, pos_ids=items.pos_ids, grid=config.audio_grid))
    width = config.audio_vit.emb_dim
    check("audio_vit/g_inputs/out_last", both[..., :width], stored, sampled, atol=1e-4)
    check("audio_vit/g_inputs/out_layer1", both[..., width:], stored, sampled, atol=1e-4)


def test_image_positions_are_resized_to_each_grid(case, stored):
    for side in (24, 16):
        ours = np.asarray(case.model.image_vit.position_table((side, side))).reshape(side, side, -1)
        np.testing.assert_allclose(ours, stored[f"image_vit/pos_emb_bicubic_{side}x{side}"], atol=2e-6)


@pytest.mark.parametrize("kind", ["image", "audio"])
@pytest.mark.parametrize("attention", ["qk_norm", "scaled_cosine"])
def test_resamplers_agree(kind, attention, stored):
    resampler = dataclasses.replace(
        golden_config().image_resampler if kind == "image" else golden_config().audio_resampler,
        cross_attention=attention, self_attention=attention,
    )  # fmt: skip
    config = dataclasses.replace(
        golden_config(), input_modalities=("text", f"{kind}_history"), target_modalities=("text",),
        **{f"{kind}_resampler": resampler},
    )  # fmt: skip
    model = golden_model(config)
    mask = np.arange(40)[None] < np.array([[40], [25]])
    ours = getattr(model, f"{kind}_history").resampler(seeded(f"resampler/{kind}/in", (2, 40, 48)), mask=mask)
    name = "resampler" if attention == "qk_norm" else "resampler_scaled_cosine"
    np.testing.assert_allclose(ours, stored[f"{name}/{kind}/out"], atol=2e-5)


def test_rotary_tables_agree(stored, sampled):
    config = golden_config()
    scale = config.image_rope_scale
    tables = {
        "rope/text_1d_len512_head16": text_rotary(np.arange(512), head_dim=16),
        "rope/text_1d_len16_head128": text_rotary(np.arange(16), head_dim=128),
        "rope/image_input_24x24_head16_scale4over3": grid_rotary(np.arange(576), columns=24, head_dim=16, scale=scale),
        "rope/audio_input_16x8_head16_scale4over3": grid_rotary(np.arange(128), columns=8, head_dim=16, scale=scale),
        "rope/image_history_8x32_head16": grid_rotary(np.arange(256), columns=32, head_dim=16),
        "rope/audio_history_8x16_head16": grid_rotary(np.arange(128), columns=16, head_dim=16),
        "rope/image_target_32x32_head16": grid_rotary(np.arange(1024), columns=32, head_dim=16),
        "rope/audio_target_cfg128x256_head16": grid_rotary(np.arange(512), columns=32, head_dim=16),
        "rope/image_target_32x32_head128_first64": grid_rotary(np.arange(64), columns=32, head_dim=128),
    }
    for name, table in tables.items():
        check(name, table, stored, sampled, atol=5e-5)  # sine and cosine of angles up to 511 in float32


def test_rotation_agrees(stored):
    x = seeded("rope/x", (2, 5, 3, 16))
    table = stored["rope/apply_in"]
    np.testing.assert_array_equal(x, table)
    positions = np.tile(np.arange(5), (2, 1))
    np.testing.assert_allclose(rotate(x, text_rotary(positions, head_dim=16)), stored["rope/apply_out"], atol=1e-5)


@pytest.mark.parametrize("inputs", [("image_history", "audio_history"), ("text", "image", "audio_history"), VISUAL])
def test_a_shared_tower_is_found_under_its_first_user(inputs):
    config = dataclasses.replace(golden_config(), input_modalities=inputs, target_modalities=("text",))
    shapes = t5x.expected_shapes(config)
    for kind in ("image", "audio"):
        if kind in inputs:
            place = f"input_{kind}_encoder/image_encoder/vision_transformer/"
        elif f"{kind}_history" in inputs:
            place = f"input_encoders_{kind}_history/vit_image_encoder/vision_transformer/"
        towers = {path for path in shapes if "vision_transformer" in path and f"_{kind}_" in path.split("/")[0]}
        assert towers
        assert all(path.startswith(place) for path in towers)
    assert len(shapes) == sum(_layers(name, shape) for name, shape in tree.shapes(config).items())
    flat = {path: parameter(path, shape) for path, shape in shapes.items()}
    back = t5x.to_tree(t5x.from_tree(flat, config=config))
    assert all(np.array_equal(back[path], flat[path]) for path in flat)


def _layers(name: str, shape: tuple[int, ...]) -> int:
    return shape[0] if "/blocks/layers/" in name else 1
