"""Names, shapes and decoded tokens are the original's; what the forward pass computes is in `test_parity_*.py`."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.model.reference import GOLDEN, SPEC, load_case, needs_golden, parameters
from uio2.model import ModelConfig
from uio2.model.checkpoint import t5x, tree
from uio2.model.generate import generate


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
