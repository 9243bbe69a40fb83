"""Where tokens stand changes nothing of what they mean: folding, packing, budgets, absent modalities."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.model import tiny
from tests.model.reference import GOLDEN, config_of, needs_golden
from tests.model.tiny import everything, seeded_codes
from uio2.model import item_budget, multimodal_loss
from uio2.model.generate import generate
from uio2.model.index_map import IndexMap
from uio2.model.packing import packing_metrics
from uio2.model.parts import ConfigError
from uio2.model.rows import Segment, assemble

CONFIG = dataclasses.replace(tiny.EVERYTHING, input_modalities=("text", "image", "audio_history"))


@pytest.fixture(scope="module")
def model():
    return tiny.make(CONFIG)


@pytest.fixture(scope="module")
def batch():
    return everything() | seeded_codes()


@functools.partial(jax.jit, static_argnums=(0, 3))
def _forward(graph, state, batch, options):
    options = dict(options)
    if "budget" in options:
        options["budget"] = dict(options["budget"])
    return nnx.merge(graph, state)(batch, **options)


def outputs_of(model, batch, **options):
    """A jitted forward pass; equal options and shapes compile once."""
    if "budget" in options:
        options["budget"] = tuple(options["budget"].items())
    return _forward(*nnx.split(model), batch, tuple(options.items()))


@pytest.fixture(scope="module")
def plain(model, batch):
    return outputs_of(model, batch)


def test_sums_of_groups_are_those_of_their_examples(plain):
    count = len(next(iter(plain.values())).targets)
    group = np.arange(count) % 2
    _, found = multimodal_loss(plain, group=jnp.asarray(group), groups=3)
    for number in range(3):
        rows = np.flatnonzero(group == number)
        part = {name: jax.tree.map(lambda value, rows=rows: value[rows], output) for name, output in plain.items()}
        tokens = {name: max(float(output.loss_mask.sum()), 1.0) for name, output in part.items()}
        _, alone = multimodal_loss(part)
        for key in ("cross_ent_loss", "accuracy"):
            expected = sum(tokens[name] * float(alone[f"{name}/{key}"]) for name in part) if len(rows) else 0.0
            assert float(found[f"group/{key}"][number]) == pytest.approx(expected, rel=1e-5)
        assert float(found["group/tokens"][number]) == sum(float(output.loss_mask.sum()) for output in part.values())


def assert_same(ours, expected):
    """Equal logits wherever the loss looks, equal losses."""
    assert ours.keys() == expected.keys()
    for modality, output in expected.items():
        real = np.asarray(output.loss_mask) > 0
        np.testing.assert_array_equal(ours[modality].loss_mask, output.loss_mask)
        np.testing.assert_allclose(
            np.asarray(ours[modality].logits)[real], np.asarray(output.logits)[real], atol=2e-5, err_msg=modality
        )
    assert float(multimodal_loss(ours)[0]) == pytest.approx(float(multimodal_loss(expected)[0]), rel=1e-5)


def test_an_index_map_moves_marked_entries_there_and_back():
    marked = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    values = np.arange(1.0, 16).reshape(3, 5)
    index_map = IndexMap.of(marked, slots=4)
    packed = np.asarray(index_map.gather(values))
    np.testing.assert_array_equal(packed, [[1, 3, 4, 0], [0, 0, 0, 0], [11, 12, 13, 14]])
    np.testing.assert_array_equal(index_map.filled, packed > 0)
    back = np.asarray(index_map.scatter(packed))
    np.testing.assert_array_equal(index_map.kept, back > 0)
    np.testing.assert_array_equal(back[0], values[0] * marked[0])
    assert back[2, 4] == 0, "the fifth entry had no slot"


@pytest.mark.parametrize(
    "options",
    [
        {"fold": 2},
        {"horizontally_pack_inputs": 21, "horizontally_pack_targets": 28},
        {"fold": 4, "horizontally_pack_inputs": 60, "horizontally_pack_targets": 70},
    ],
    ids=str,
)
def test_folding_and_packing_change_nothing(model, batch, plain, options):
    assert float(packing_metrics(batch, config=CONFIG, **options)["packing/input_overflow"]) == 0
    assert_same(outputs_of(model, batch, **options), plain)


@pytest.mark.parametrize("rows", [[[2, 0, 1, 0]], [[1, 0], [0, 0]]], ids=str)
def test_examples_assigned_to_rows_change_nothing(model, batch, plain, rows):
    rows = np.array(rows, np.int32)
    examples = np.stack([np.bincount(group, minlength=3) for group in rows]).astype(np.int32)
    assigned = {**batch, "packing/row": rows, "packing/examples": examples}
    options = {"horizontally_pack_inputs": 40, "horizontally_pack_targets": 50}
    metrics = packing_metrics(assigned, config=CONFIG, **options)
    assert float(metrics["packing/input_overflow"]) == float(metrics["packing/target_overflow"]) == 0
    assert float(metrics["packing/examples_per_row"]) == pytest.approx(4 / examples.size)
    assert_same(outputs_of(model, assigned, **options), plain)


def test_an_example_without_a_row_counts_in_no_loss(model, batch, plain):
    rows = np.array([[0, -1, 0, 1]], np.int32)
    assigned = {**batch, "packing/row": rows, "packing/examples": np.array([[2, 1]], np.int32)}
    outputs = outputs_of(model, assigned, horizontally_pack_inputs=60, horizontally_pack_targets=60)
    for modality, output in outputs.items():
        assert not output.loss_mask[1].any()
        np.testing.assert_array_equal(output.loss_mask[2:], plain[modality].loss_mask[2:])


def test_assigned_examples_need_a_length(model, batch):
    with pytest.raises(ConfigError, match="a length of the rows"):
        outputs_of(model, {**batch, "packing/row": np.zeros((1, 4), np.int32),
                           "packing/examples": np.full((1, 1), 4, np.int32)})  # fmt: skip


def test_a_packed_token_without_a_place_counts_in_no_loss(model, batch):
    length = 10
    outputs = outputs_of(model, batch, horizontally_pack_targets=length)
    placed = sum(np.asarray(output.loss_mask).sum(axis=1) for output in outputs.values())
    targets = sum(batch[f"targets/{m}/mask"].sum(axis=1) for m in ("text", "image", "audio"))
    np.testing.assert_array_equal(placed, np.minimum(targets, length))
    reported = packing_metrics(batch, config=CONFIG, horizontally_pack_targets=length)
    assert float(reported["packing/target_overflow"]) == pytest.approx(np.maximum(targets - length, 0).mean())


def test_a_fold_that_does_not_divide_the_batch_is_refused():
    segment = Segment(np.zeros((4, 3, 8), np.float32), np.ones((4, 3), bool))
    with pytest.raises(ConfigError, match="fold is 3"):
        assemble([segment], fold=3)


def test_targets_of_one_example_do_not_see_each_other(model, batch, plain):
    changed = {**batch, "targets/text/inputs": (batch["targets/text/inputs"] + 5) % 64,
               "targets/image/codes": (batch["targets/image/codes"] + 3) % 32}  # fmt: skip
    ours = outputs_of(model, changed)
    real = batch["targets/audio/mask"] > 0
    np.testing.assert_allclose(ours["audio"].logits[real], plain["audio"].logits[real], atol=1e-5)
    assert np.abs(np.asarray(ours["image"].logits - plain["image"].logits)).max() > 1e-2


def test_text_targets_of_one_example_do_not_see_each_other(model, batch):
    segments = np.tile(np.array([1, 1, 1, 2, 2, 2], np.int32), (4, 1))
    batch = {**batch, "targets/text/segment_ids": segments, "targets/text/mask": np.ones_like(segments),
             "targets/text/targets": np.maximum(batch["targets/text/targets"], 2)}  # fmt: skip
    other = {**batch, "targets/text/inputs": batch["targets/text/inputs"].copy()}
    other["targets/text/inputs"][:, 1:3] = 9
    options = {"fold": 4, "horizontally_pack_inputs": 60, "horizontally_pack_targets": 70}
    first, second = (np.asarray(outputs_of(model, b, **options)["text"].logits) for b in (batch, other))
    np.testing.assert_allclose(first[:, 3:], second[:, 3:], atol=1e-5)
    assert np.abs(first[:, 1:3] - second[:, 1:3]).max() > 1e-2


def test_a_budget_that_suffices_changes_nothing(model, plain):
    batch = everything() | seeded_codes()
    present = {name: int(batch[f"{name}/mask"].any(-1).sum()) for name in (
        "inputs/image", "inputs/audio_history")}  # fmt: skip
    assert all(count < batch[f"{name}/mask"][..., 0].size for name, count in present.items())
    assert_same(outputs_of(model, batch, budget=present), plain)


def test_no_tower_runs_on_what_is_absent(batch):
    """A tower of NaN would spoil whatever it touches."""
    broken = tiny.make(CONFIG)
    for leaf in jax.tree.leaves(nnx.state(broken.image_vit), is_leaf=lambda x: isinstance(x, nnx.Variable)):
        leaf.set_value(jnp.full_like(leaf.get_value(), jnp.nan))
    seen = item_budget(batch, config=CONFIG)
    blind = {**batch, "inputs/image/mask": np.zeros_like(batch["inputs/image/mask"])}
    assert item_budget(blind, config=CONFIG) == {**seen, "inputs/image": 0}
    expected = outputs_of(tiny.make(CONFIG), blind)
    assert_same(outputs_of(broken, blind, budget=item_budget(blind, config=CONFIG)), expected)
    assert_same(broken(blind), expected)
    tokens = generate(broken, blind, max_length=2).tokens
    np.testing.assert_array_equal(tokens, generate(tiny.make(CONFIG), blind, max_length=2).tokens)
    assert not np.isfinite(multimodal_loss(outputs_of(broken, batch, budget=seen))[0])


def test_a_needed_budget_is_rounded_up_to_few_sizes(batch):
    masks = np.zeros((16, 4), np.int32)
    for present, places in ((1, 2), (2, 2), (3, 4), (14, 14)):
        masks[:present] = 1
        assert item_budget({"inputs/image/mask": masks}, config=CONFIG) == {"inputs/image": places}
    masks[:] = 1
    assert item_budget({"inputs/image/mask": masks}, config=CONFIG) == {}


def test_items_beyond_the_budget_are_as_if_absent(model, batch):
    budget = {"inputs/audio_history": 3, "inputs/image": 1}
    without = {key: np.copy(value) for key, value in batch.items()}
    for name, slots in budget.items():
        present = without[f"{name}/mask"].any(-1)
        dropped = present & (np.cumsum(present).reshape(present.shape) > slots)
        assert dropped.any()
        without[f"{name}/mask"][dropped] = 0
        reported = packing_metrics(batch, config=CONFIG, budget=budget)[f"packing/{name}_overflow"]
        assert float(reported) == dropped.sum()
    assert_same(outputs_of(model, batch, budget=budget), outputs_of(model, without))


def test_a_target_image_beyond_the_budget_counts_in_no_loss(model):
    batch = everything()
    outputs = outputs_of(model, batch, budget={"targets/image": 1})
    full = outputs_of(model, batch)
    np.testing.assert_array_equal(outputs["image"].loss_mask.sum(axis=1), [16, 0, 0, 0])
    np.testing.assert_array_equal(full["image"].loss_mask.sum(axis=1), [16, 0, 16, 0])
    np.testing.assert_allclose(outputs["image"].logits[0], full["image"].logits[0], atol=1e-5)


def test_a_budget_for_something_else_is_refused(model, batch):
    with pytest.raises(ConfigError, match="inputs/text"):
        model(batch, budget={"inputs/text": 2})


def test_a_modality_without_keys_is_like_one_without_items(model, batch, plain):
    masked = {k: np.zeros_like(v) if k.startswith(("inputs/audio", "inputs/image")) else v
              for k, v in batch.items()}  # fmt: skip
    absent = {k: v for k, v in batch.items() if not k.startswith(("inputs/audio", "inputs/image"))}
    assert_same(outputs_of(model, absent), outputs_of(model, masked))
    text_only = {k: v for k, v in batch.items() if not k.startswith(("targets/image", "targets/audio"))}
    real = batch["targets/text/mask"] > 0
    ours = outputs_of(model, text_only)["text"].logits
    np.testing.assert_allclose(ours[real], plain["text"].logits[real], atol=1e-5)


def test_ready_codes_equal_those_made_on_the_way(model):
    batch = everything()
    made = outputs_of(model, batch)
    ready = {f"targets/{kind}/codes": np.asarray(made[kind].targets) - 2 for kind in ("image", "audio")}
    assert_same(outputs_of(model, batch | ready), made)


@needs_golden
@pytest.mark.parametrize("name", ["c_text2image", "f_history_text2text", "g_everything", "h_packed", "h2_hpack_nofold"])
def test_reported_fractions_are_the_originals(name):
    figures = json.loads((GOLDEN / f"forward_{name}.json").read_text())
    with np.load(GOLDEN / f"forward_{name}.npz") as stored:
        batch = {key.removeprefix("batch/"): stored[key] for key in stored.files if key.startswith("batch/")}
    options = {key: value for key, value in figures["module_args"].items() if key != "use_constraints"}
    ours = packing_metrics(batch, config=config_of(figures), **options)
    expected = {key: value for key, value in figures["metrics"].items() if key.startswith("packing/")}
    for key, value in expected.items():
        assert float(ours[key]) == pytest.approx(value, rel=1e-6), key
