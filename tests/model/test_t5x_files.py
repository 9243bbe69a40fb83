"""T5X checkpoint directories: the original's own one, and ours read again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from tests.model.checkpoints import same_arrays
from tests.model.reference import GOLDEN, needs_golden
from uio2.model.checkpoint import t5x_files
from uio2.model.checkpoint.tree import CheckpointError


def random_tree(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "decoder/decoder_norm/scale": rng.standard_normal(7).astype(np.float32),
        "decoder/layers_0/mlp/wo/kernel": rng.standard_normal((5, 7)).astype(jnp.bfloat16),
        "target_encoders_image/discrete_vae/quant_conv/kernel": rng.standard_normal((1, 2, 3, 4)).astype(np.float32),
    }


@needs_golden
def test_the_original_s_arrays_are_read_whole(original):
    facts = json.loads((GOLDEN / "t5x_checkpoint.json").read_text())
    state = t5x_files.read_optimizer_state(original)
    arrays = {f"target/{path}": array for path, array in t5x_files.read_target(original).items()}
    arrays |= {f"state/param_states/{path}": array for path, array in state.arrays.items()}
    arrays["state/step"] = np.asarray(state.step, np.int32)
    assert state.step == facts["n_steps"]
    assert arrays.keys() == facts["state"].keys()
    assert sum(np.asarray(a).size for p, a in arrays.items() if p.startswith("target/")) == facts["n_params"]
    for path, fact in facts["state"].items():
        array = np.asarray(arrays[path])
        assert (list(array.shape), array.dtype.name) == (fact["shape"], fact["dtype"]), path
        wide = array.astype(np.float64)
        assert wide.sum() == pytest.approx(fact["sum"], rel=1e-6, abs=1e-6), path
        assert np.sqrt((wide**2).sum()) == pytest.approx(fact["l2"], rel=1e-6), path
        np.testing.assert_array_equal(array.ravel()[:3], np.asarray(fact["first3"], array.dtype))


@needs_golden
def test_what_is_written_has_the_original_s_layout(original, tmp_path):
    state = t5x_files.read_optimizer_state(original)
    t5x_files.write(tmp_path / "checkpoint_2", t5x_files.read_target(original), optimizer_state=state)
    ours, theirs = (
        serialization.msgpack_restore((folder / "checkpoint").read_bytes())
        for folder in (tmp_path / "checkpoint_2", original)
    )
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), ours, theirs)))
    for file in original.rglob("*"):
        copy = tmp_path / "checkpoint_2" / file.relative_to(original)
        assert copy.is_dir() == file.is_dir()
        if file.name == ".zarray":
            assert json.loads(copy.read_text()) == json.loads(file.read_text())
    same_arrays(t5x_files.read_target(tmp_path / "checkpoint_2"), t5x_files.read_target(original))
    same_arrays(t5x_files.read_optimizer_state(tmp_path / "checkpoint_2").arrays, state.arrays)


def test_a_tree_round_trips_with_its_dtypes_and_parts_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr("uio2.model.checkpoint.zarr_files.CHUNK_BYTES", 40)  # several chunks
    tree = random_tree()
    t5x_files.write(tmp_path / "c", tree)
    found = t5x_files.read_target(tmp_path / "c")
    same_arrays(found, tree)
    part = found["decoder/layers_0/mlp/wo/kernel"][slice(1, 4), slice(2, 7)]
    np.testing.assert_array_equal(part, tree["decoder/layers_0/mlp/wo/kernel"][1:4, 2:7])
    with pytest.raises(CheckpointError, match="parameters only"):
        t5x_files.read_optimizer_state(tmp_path / "c")


def test_leaves_written_inline_are_read(tmp_path):
    tree = random_tree()
    content = serialization.msgpack_serialize({"version": 3, "optimizer": {"target": {
        "decoder": {"decoder_norm": {"scale": tree["decoder/decoder_norm/scale"]},
                    "layers_0": {"mlp": {"wo": {"kernel": tree["decoder/layers_0/mlp/wo/kernel"]}}}}}}})  # fmt: skip
    (tmp_path / "checkpoint").write_bytes(content)
    found = t5x_files.read_target(tmp_path)
    same_arrays(found, {path: tree[path] for path in found})
    assert len(found) == 2


def test_every_unreadable_array_is_listed_in_one_error(tmp_path):
    t5x_files.write(tmp_path / "c", random_tree())
    (tmp_path / "c" / "target.decoder.decoder_norm.scale" / "0").unlink()
    (tmp_path / "c" / "target.decoder.layers_0.mlp.wo.kernel" / ".zarray").unlink()
    with pytest.raises(CheckpointError) as error:
        t5x_files.read_target(tmp_path / "c")
    message = str(error.value)
    assert message.startswith("2 tensors")
    assert "decoder/decoder_norm/scale" in message
    assert "0 of its 1 chunks" in message
    assert "decoder/layers_0/mlp/wo/kernel" in message


def test_folders_that_are_no_checkpoint_say_why(tmp_path):
    with pytest.raises(CheckpointError, match="no file 'checkpoint'"):
        t5x_files.read_target(tmp_path)
    t5x_files.write(tmp_path / "checkpoint_7", random_tree())
    with pytest.raises(CheckpointError, match="it holds checkpoint_7: name one"):
        t5x_files.read_target(tmp_path)
    (tmp_path / "checkpoint").write_bytes(b"\x81\xa1")
    with pytest.raises(CheckpointError, match="not msgpack"):
        t5x_files.read_target(tmp_path)
    (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize({"step": 3}))
    with pytest.raises(CheckpointError, match="no 'target'"):
        t5x_files.read_target(tmp_path)


def test_a_description_cannot_lead_out_of_the_folder(tmp_path):
    t5x_files.write(tmp_path / "secret", random_tree())
    leaf = {"driver": "zarr", "kvstore": {"driver": "file", "path": "../secret/target.decoder.decoder_norm.scale/"}}
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "checkpoint").write_bytes(serialization.msgpack_serialize({"optimizer": {"target": {"a": leaf}}}))
    with pytest.raises(CheckpointError, match=r"no \.zarray"):
        t5x_files.read_target(tmp_path / "c")


def test_a_failed_write_leaves_nothing_and_a_folder_is_not_overwritten(tmp_path):
    class Broken(np.ndarray):
        def __getitem__(self, index):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        t5x_files.write(tmp_path / "c", {**random_tree(), "z": np.zeros(3).view(Broken)})
    assert list(tmp_path.iterdir()) == []
    t5x_files.write(tmp_path / "c", random_tree())
    with pytest.raises(CheckpointError, match="exists"):
        t5x_files.write(tmp_path / "c", random_tree())
