"""Behaviour of the model library that needs no reference numbers."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from uio2.model import ModelConfig, UnifiedIO2, VitConfig, multimodal_loss
from uio2.model.checkpoint import native, tree
from uio2.model.generate import generate
from uio2.model.parts import ConfigError

TINY = ModelConfig(
    emb_dim=32, num_heads=2, head_dim=8, mlp_dim=48, num_encoder_layers=2, num_decoder_layers=2, text_vocab_size=64,
    encoder_max_text_length=8, decoder_max_text_length=6, image_size=(8, 12), image_patch_size=4, image_rope_scale=1.0,
    image_vit=VitConfig(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_layers=2, num_positions=5),
    input_modalities=("text", "image"), target_modalities=("text",),
)  # fmt: skip


def make_batch(config: ModelConfig, *, rows: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens and patches, nothing padded."""
    rng = np.random.default_rng(seed)
    t, s, n = config.encoder_max_text_length, config.decoder_max_text_length, config.num_patches
    targets = rng.integers(2, config.text_vocab_size, (rows, s)).astype(np.int32)

    def ones(length):
        return np.ones((rows, length), np.int32)

    def positions(length):
        return np.tile(np.arange(length, dtype=np.int32), (rows, 1))

    return {
        "inputs/text/tokens": rng.integers(2, config.text_vocab_size, (rows, t)).astype(np.int32),
        "inputs/text/mask": ones(t),
        "inputs/text/pos_ids": positions(t),
        "inputs/image/input": rng.standard_normal((rows, n, config.patch_dim)).astype(np.float32),
        "inputs/image/mask": ones(n),
        "inputs/image/pos_ids": positions(n),
        "targets/text/inputs": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "targets/text/targets": targets,
        "targets/text/mask": ones(s),
        "targets/text/pos_ids": positions(s),
        "targets/text/segment_ids": ones(s),
    }


@pytest.fixture(scope="module")
def model():
    return UnifiedIO2(TINY, rngs=nnx.Rngs(0))


@nnx.jit
def logits_of(model, batch):
    """Compiled as a whole: one by one the operations take thrice as long."""
    return model(batch)["text"].logits


def test_padding_changes_nothing(model):
    batch = make_batch(TINY)
    batch["inputs/text/mask"][:, 5:] = 0
    batch["inputs/image/mask"][:, 4:] = 0
    other = {**batch, "inputs/text/tokens": batch["inputs/text/tokens"].copy(),
             "inputs/image/input": batch["inputs/image/input"].copy()}  # fmt: skip
    other["inputs/text/tokens"][:, 5:] = 63
    other["inputs/image/input"][:, 4:] = 99.0
    np.testing.assert_allclose(logits_of(model, batch), logits_of(model, other), atol=1e-5)


def test_a_target_token_sees_no_later_one(model):
    batch = make_batch(TINY)
    later = {**batch, "targets/text/inputs": batch["targets/text/inputs"].copy()}
    later["targets/text/inputs"][:, 4:] = 7
    first, second = (np.asarray(logits_of(model, b)) for b in (batch, later))
    np.testing.assert_allclose(first[:, :4], second[:, :4], atol=1e-6)
    assert np.abs(first[:, 4:] - second[:, 4:]).max() > 1e-3


def test_cached_decoding_equals_the_full_forward_pass(model):
    batch = make_batch(TINY)
    output = generate(model, batch, max_length=6)
    tokens = np.asarray(output.tokens)
    mask = (np.cumsum(tokens == 1, axis=1) - (tokens == 1) == 0).astype(np.int32)
    forced = {**batch, "targets/text/targets": np.where(mask, np.maximum(tokens, 2), 0),
              "targets/text/inputs": np.pad(tokens, ((0, 0), (1, 0)))[:, :-1], "targets/text/mask": mask}  # fmt: skip
    logits = logits_of(model, forced)
    kept = mask > 0
    np.testing.assert_array_equal(np.argmax(logits, -1)[kept], tokens[kept])
    best = np.max(jax.nn.log_softmax(logits), -1)
    np.testing.assert_allclose(best[kept], np.asarray(output.logprobs)[kept], atol=1e-4)


def test_frozen_tower_gets_no_gradient_and_an_unfrozen_one_does():
    def largest(freeze):
        config = dataclasses.replace(TINY, freeze_vit=freeze)
        model = UnifiedIO2(config, rngs=nnx.Rngs(0))
        gradients = nnx.jit(nnx.grad(lambda m: multimodal_loss(m(make_batch(config)))[0]))(model)
        return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradients["image_vit"]))

    assert largest(True) == 0.0
    assert largest(False) > 0.0


def test_scan_and_unrolled_layers_agree():
    values = []
    for unroll in (1, 0):
        config = dataclasses.replace(TINY, scan_unroll=unroll)
        values.append(logits_of(UnifiedIO2(config, rngs=nnx.Rngs(3)), make_batch(config)))
    np.testing.assert_allclose(*values, atol=1e-5)


def test_native_checkpoint_round_trips_with_equal_bytes(model, tmp_path):
    from uio2.pipeline.artifact import digest_directory

    native.save(model, tmp_path / "one")
    native.save(model, tmp_path / "two")
    volatile = tuple(f"*{name}" for name in native.VOLATILE)
    assert digest_directory(tmp_path / "one", volatile=volatile) == digest_directory(
        tmp_path / "two", volatile=volatile
    )
    loaded = native.load(tmp_path / "one")
    before, after = tree.flatten(model), tree.flatten(loaded)
    assert loaded.config == model.config
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(tree.CheckpointError, match=r"config\.json"):
        native.load(tmp_path)


def test_config_round_trips_and_refuses_what_cannot_work():
    assert ModelConfig.from_json(TINY.to_json()) == TINY
    with pytest.raises(ConfigError, match="emb_dimm"):
        ModelConfig.from_dict({"emb_dimm": 3})
    with pytest.raises(ConfigError, match="multiple of image_patch_size"):
        dataclasses.replace(TINY, image_size=(10, 12))
    with pytest.raises(ConfigError, match="digits"):
        ModelConfig.preset("hugee")


def test_text_beyond_the_position_table_is_refused(model):
    batch = make_batch(dataclasses.replace(TINY, encoder_max_text_length=9))
    with pytest.raises(ConfigError, match="at most 8"):
        model(batch)
    with pytest.raises(ConfigError, match="decoder_max_text_length"):
        generate(model, make_batch(TINY), max_length=7)


def test_importing_the_config_needs_no_jax():
    import subprocess
    import sys

    code = "import sys, uio2.model.config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
