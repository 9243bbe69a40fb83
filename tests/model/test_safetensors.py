"""The safetensors format."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.checkpoints import same_arrays
from tests.model.reference import GOLDEN, needs_golden
from uio2.model.checkpoint import safetensors
from uio2.model.checkpoint.tree import CheckpointError

STATE = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(5).astype(jnp.bfloat16),
    "é": np.asarray(3, np.int64),
    "none": np.zeros((0, 2), np.float16),
}


def test_arrays_round_trip(tmp_path):
    safetensors.write(STATE, tmp_path / "m.safetensors")
    found = safetensors.read(tmp_path / "m.safetensors")
    same_arrays(found, STATE)
    np.testing.assert_array_equal(found["b"][slice(1, 2), slice(1, 3)], STATE["b"][1:2, 1:3])


@needs_golden
def test_a_file_of_the_format_s_own_library_is_written_again_byte_for_byte(tmp_path):
    original = GOLDEN / "huggingface" / "fixture_tiny" / "model.safetensors"
    safetensors.write(safetensors.read(original), tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == original.read_bytes()


def write_header(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"{]", "no safetensors header"),
        (b"[]", "no safetensors header"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "data_offsets"),
        ({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, "'F4'"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "contradicts"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}, "contradicts"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "fetch it again"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, header, match):
    write_header(tmp_path / "m.safetensors", header, b"\0" * 4)
    with pytest.raises(CheckpointError, match=match):
        safetensors.read(tmp_path / "m.safetensors")


def test_what_is_another_format_is_refused(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        safetensors.read(tmp_path / "m.safetensors")
