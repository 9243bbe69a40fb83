"""Hugging Face folders: the port's own file, ours, every format, what does not fit, parts of a model."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.model.checkpoints import COSINE, SMALL, random_tree, same_arrays, same_models, write_torch
from tests.model.reference import GOLDEN, SPEC, needs_golden
from uio2.model import ModelConfig
from uio2.model.checkpoint import huggingface, native, safetensors, t5x, torch_names
from uio2.model.checkpoint.tree import CheckpointError
from uio2.model.generate import generate
from uio2.model.parts import ConfigError

FIXTURE = GOLDEN / "huggingface" / "fixture_tiny"


def port_config() -> ModelConfig:
    """The fixture's, computing the GELU the port computes (spec: HUGGINGFACE.md)."""
    config = huggingface.read_config(FIXTURE)
    return config.with_overrides({"image_resampler": {"gelu": "erf"}, "audio_resampler": {"gelu": "erf"}})


@pytest.fixture(scope="module")
def port():
    """The model the port wrote, its batch and what the port computed."""
    with np.load(FIXTURE / "reference.npz") as stored:
        arrays = dict(stored)
    batch = {key.removeprefix("batch/"): value for key, value in arrays.items() if key.startswith("batch/")}
    reference = {key.removeprefix("ref/"): value for key, value in arrays.items() if key.startswith("ref/")}
    return huggingface.load(FIXTURE, config=port_config()), batch, reference


# Compiled as a whole: one by one the operations take twice as long.
forward = nnx.jit(lambda model, batch: model(batch))


@nnx.jit
def source_and_encoded(model, batch):
    source = model.source(batch)
    return source, model.encoder(source)


@needs_golden
def test_the_port_s_encoder_row_and_output_are_reproduced(port):
    model, batch, reference = port
    source, encoded = source_and_encoded(model, batch)
    real = reference["encoder_mask"] > 0
    np.testing.assert_array_equal(np.asarray(source.mask), real)
    np.testing.assert_allclose(np.asarray(source.embed)[real], reference["encoder_input_embed"][real], atol=1e-4)
    rotary = np.asarray(source.rotary).reshape(*real.shape, -1)
    np.testing.assert_allclose(rotary[real], reference["encoder_rope"][real], atol=2e-5)
    np.testing.assert_allclose(np.asarray(encoded)[real], reference["encoder_output"][real], atol=2e-4)


@needs_golden
def test_the_port_s_logits_targets_and_tokens_are_reproduced(port):
    model, batch, reference = port
    for modality in ("text", "image", "audio"):
        inputs = {key: value for key, value in batch.items() if not key.startswith("targets/")}
        targets = {key: value for key, value in batch.items() if key.startswith(f"targets/{modality}/")}
        output = forward(model, inputs | targets)[modality]
        np.testing.assert_array_equal(output.targets, reference[f"{modality}_target_tokens"])
        expected = reference[f"{modality}_logits"]
        kept = np.asarray(batch[f"targets/{modality}/mask"])[:, : expected.shape[1]] > 0
        logits = np.asarray(output.logits)[:, : expected.shape[1]]
        assert np.abs(logits - expected)[kept].max() < 2e-4, modality
    tokens = generate(model, batch, max_length=8).tokens
    greedy = reference["greedy_text_tokens"][:, 1:]
    ended = np.cumsum(greedy == 1, axis=1) - (greedy == 1) > 0
    np.testing.assert_array_equal(tokens, np.where(ended, 0, greedy))


@needs_golden
def test_the_port_s_decoded_codes_are_reproduced(port):
    model, _, reference = port
    image = model.image_target.codec.decode(jnp.asarray(reference["image_vq_decode_codes"], jnp.int32))
    np.testing.assert_allclose(np.moveaxis(image, -1, 1), reference["image_vq_decoded"], atol=2e-4)
    # The port's codes run over (frequency, time) as its codec does; ours over (time, frequency) as the tokens do.
    codes = reference["audio_vq_decode_codes"].reshape(1, *model.config.audio_codec.grid).swapaxes(1, 2).reshape(1, -1)
    sound = np.asarray(model.audio_target.codec.decode(jnp.asarray(codes, jnp.int32)))
    np.testing.assert_allclose(sound.transpose(0, 3, 2, 1), reference["audio_vq_decoded"], atol=2e-4)


@needs_golden
def test_the_port_s_files_are_written_again(tmp_path):
    huggingface.save(huggingface.load(FIXTURE), tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (FIXTURE / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == json.loads((FIXTURE / "config.json").read_text())


@needs_golden
@pytest.mark.parametrize("size", ["large", "xl", "xxl"])
def test_published_sizes_need_the_published_keys_and_no_others(size):
    table = json.loads((SPEC / "layout" / f"mapping_{size}.json").read_text())
    ours = {torch_names.to_torch(p): (p, list(s)) for p, s in t5x.expected_shapes(ModelConfig.preset(size)).items()}
    assert ours == {key: (row["jax"], row["jax_shape"]) for key, row in table.items()}


@needs_golden
def test_the_published_config_is_read_and_written():
    published = json.loads((SPEC / "layout" / "config_large.json").read_text())
    assert ModelConfig.from_reference(published) == ModelConfig.preset("large")
    assert ModelConfig.preset("large").to_reference() == published


@pytest.mark.parametrize("config", [SMALL, COSINE, ModelConfig.preset("xxl"), ModelConfig.preset("digits")])
def test_configs_survive_the_published_structure(config):
    back = ModelConfig.from_reference(config.to_reference())
    lost = {"scan_unroll": config.scan_unroll, "audio_rope_scale": config.audio_rope_scale}
    assert dataclasses.replace(back, **lost) == config


def test_a_config_the_published_structure_cannot_say_is_refused(tmp_path):
    config = dataclasses.replace(SMALL, audio_rope_scale=1.5)
    model = t5x.from_tree(random_tree(config), config=config)
    with pytest.raises(ConfigError, match=r"audio_rope_scale is 1\.5"):
        huggingface.save(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", [SMALL, COSINE], ids=["qk_norm", "scaled_cosine"])
def test_t5x_native_hub_t5x_keeps_every_bit(tmp_path, config):
    flat = random_tree(config, mixed=True)
    t5x.save(t5x.from_tree(flat, config=config, dtype=None), tmp_path / "t5x")
    native.save(t5x.load(tmp_path / "t5x", config=config, dtype=None), tmp_path / "native")
    huggingface.save(native.load(tmp_path / "native"), tmp_path / "hub")
    t5x.save(huggingface.load(tmp_path / "hub", dtype=None), tmp_path / "again")
    same_arrays(t5x.to_tree(t5x.load(tmp_path / "again", config=config, dtype=None)), flat)
    wide = t5x.to_tree(huggingface.load(tmp_path / "hub"))
    same_arrays(wide, {path: array.astype(np.float32) for path, array in flat.items()})


def test_every_file_format_of_the_hub_gives_the_same_model(tmp_path):
    flat = random_tree(SMALL, mixed=True)
    state = {key: np.ascontiguousarray(a) for key, a in huggingface.state_dict(flat).items()}
    config = json.dumps(SMALL.to_reference())
    for name in ("single", "parts", "pickled"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    safetensors.write(state, tmp_path / "single" / "model.safetensors")
    write_torch(tmp_path / "pickled" / "pytorch_model.bin", state)
    half, where = len(state) // 2, {}
    for number, keys in enumerate((list(state)[:half], list(state)[half:]), start=1):
        name = f"model-{number:05}-of-00002.safetensors"
        safetensors.write({key: state[key] for key in keys}, tmp_path / "parts" / name)
        where |= dict.fromkeys(keys, name)
    index = tmp_path / "parts" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": where}))
    for name in ("single", "parts", "pickled"):
        same_arrays(t5x.to_tree(huggingface.load(tmp_path / name, dtype=None)), flat)
    (tmp_path / "parts" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00002-of-00002\.safetensors"):
        huggingface.load(tmp_path / "parts")


def write_state(folder, state, config=SMALL):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_reference()))
    safetensors.write(state, folder / "model.safetensors")


def test_one_error_lists_every_tensor_that_does_not_fit_in_the_file_s_words(tmp_path):
    state = huggingface.state_dict(random_tree(SMALL))
    del state["encoder.layers_1.mlp.wo.weight"]
    state["decoder.layers_0.self_attention.out.weight"] = np.zeros((3, 24), np.float32)
    state["decoder.decoder_norm.scale"] = np.zeros(24, np.int64)
    state["stray"] = np.zeros(2, np.float32)
    write_state(tmp_path / "m", state)
    with pytest.raises(CheckpointError) as error:
        huggingface.load(tmp_path / "m")
    assert str(error.value).splitlines() == [
        "4 tensors do not fit the model config:",
        "  missing encoder.layers_1.mlp.wo.weight: expected (24, 40), found nothing",
        "  unexpected stray: expected nothing, found (2,)",
        "  mistyped decoder.decoder_norm.scale: expected floating point numbers, found int64",
        "  misshapen decoder.layers_0.self_attention.out.weight: expected (24, 16), found (3, 24)",
    ]


def test_a_config_of_another_depth_or_width_is_refused_with_all_it_affects(tmp_path):
    write_state(tmp_path / "m", huggingface.state_dict(random_tree(SMALL)))
    deeper = dataclasses.replace(SMALL, num_encoder_layers=3)
    per_layer = sum(path.startswith("encoder/layers_0/") for path in t5x.expected_shapes(SMALL))
    with pytest.raises(CheckpointError, match=f"^{per_layer} tensors") as error:
        huggingface.load(tmp_path / "m", config=deeper)
    assert str(error.value).count("missing encoder.layers_2.") == per_layer
    with pytest.raises(CheckpointError, match=r"unexpected decoder\.layers_2\.mlp\.wi_0\.weight"):
        huggingface.load(tmp_path / "m", config=dataclasses.replace(SMALL, num_decoder_layers=2))
    with pytest.raises(CheckpointError, match=r"misshapen text_token_embedder\.weight"):
        huggingface.load(tmp_path / "m", config=dataclasses.replace(SMALL, text_vocab_size=51))


PARTS = [
    {"input_modalities": ("text",), "target_modalities": ("text",)},
    {"input_modalities": ("image_history", "audio"), "target_modalities": ("image",)},
    {"input_modalities": ("text", "audio_history"), "target_modalities": ("text", "audio")},
]


@pytest.mark.parametrize("changes", PARTS)
def test_a_config_without_some_modalities_reads_its_part_of_the_whole_model(tmp_path, changes):
    flat = random_tree(SMALL)
    write_state(tmp_path / "m", huggingface.state_dict(flat))
    config = dataclasses.replace(SMALL, **changes)
    part = t5x.from_tree(flat, config=config)
    same_models(part, huggingface.load(tmp_path / "m", config=config))
    whole = t5x.from_tree(flat, config=SMALL)
    same_models(part, whole.with_modalities(inputs=changes["input_modalities"], targets=changes["target_modalities"]))
    huggingface.save(part, tmp_path / "part")
    same_models(part, huggingface.load(tmp_path / "part"))


def test_a_history_s_own_tower_serves_a_model_with_the_image_too():
    history = dataclasses.replace(SMALL, input_modalities=("text", "image_history", "audio_history"))
    flat = random_tree(history)
    own = [path for path in flat if "/vit_image_encoder/" in path]
    assert own
    rest = {path: a for path, a in random_tree(SMALL, seed=1).items() if "/image_encoder/" not in path}
    model = t5x.to_tree(t5x.from_tree(rest | flat, config=SMALL))
    for path in own:
        kind = "image" if "image_history" in path else "audio"
        usual = f"input_{kind}_encoder/image_encoder/{path.split('/vit_image_encoder/')[1]}"
        np.testing.assert_array_equal(model[usual], flat[path])


@needs_golden
def test_the_original_s_checkpoint_fits_its_model_and_goes_round_all_formats(original, tmp_path):
    facts = json.loads((GOLDEN / "t5x_checkpoint.json").read_text())
    config = t5x_fixture_config(facts)
    model = t5x.load(original, config=config)
    assert sum(array.size for array in jax.tree.leaves(nnx.state(model, nnx.Param))) == facts["n_params"]
    native.save(model, tmp_path / "native")
    huggingface.save(native.load(tmp_path / "native"), tmp_path / "hub")
    state = t5x.load_optimizer_state(original)
    t5x.save(huggingface.load(tmp_path / "hub"), tmp_path / "t5x", optimizer_state=state)
    files = {file.relative_to(original): file for file in original.rglob("*") if file.is_file()}
    for name, file in files.items():
        if name.name == ".zarray":
            assert json.loads((tmp_path / "t5x" / name).read_text()) == json.loads(file.read_text())
    same_models(model, t5x.load(tmp_path / "t5x", config=config))
    same_arrays(t5x.load_optimizer_state(tmp_path / "t5x").arrays, state.arrays)


def t5x_fixture_config(facts) -> ModelConfig:
    """The smallest preset with the overrides the checkpoint was made with."""
    overrides = facts["config_overrides_on_tiny_gin"]
    sizes = dict(overrides["T5Config"])
    codec = overrides["AudioViTVQGANConfig"]
    halves = {
        half: {key: codec[f"{half}_{theirs}"] for key, theirs in _HALVES.items()} for half in ("encoder", "decoder")
    }
    return ModelConfig.preset("tiny").with_overrides(
        {
            "text_vocab_size": sizes.pop("vocab_size"),
            **sizes,
            "image_vit": overrides["ImageVitFeatureConfig"],
            "audio_vit": overrides["AudioVitFeatureConfig"],
            "image_resampler": overrides["ImageResamplerConfig"],
            "audio_resampler": overrides["AudioResamplerConfig"],
            "audio_codec": {"num_codes": codec["vocab_size"], **halves},
            "input_modalities": facts["input_modalities"],
            "target_modalities": facts["target_modalities"],
        }
    )


_HALVES = {
    "emb_dim": "hidden_size", "num_heads": "num_heads", "head_dim": "head_dim", "mlp_dim": "mlp_dim",
    "num_layers": "num_layers",
}  # fmt: skip


def test_folders_that_hold_no_model_say_why(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"no config\.json; give `config=`"):
        huggingface.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"none of model\.safetensors"):
        huggingface.load(tmp_path, config=SMALL)
    (tmp_path / "config.json").write_text('{"t5_config": {}}')
    with pytest.raises(CheckpointError, match="image_vit_cfg"):
        huggingface.load(tmp_path)
    with pytest.raises(CheckpointError, match="neither a folder nor a repository"):
        huggingface.load(tmp_path / "absent")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'uio2\[hub\]'"):
        huggingface.load("allenai/uio2-large")
