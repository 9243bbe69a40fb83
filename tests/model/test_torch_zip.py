"""`pytorch_model.bin` is read as data; a file that is more than data is refused and nothing in it runs."""

import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.checkpoints import Pickle, same_arrays, write_torch
from uio2.model.checkpoint import torch_zip
from uio2.model.checkpoint.tree import CheckpointError

RNG = np.random.default_rng(0)
STATE = {
    "a.weight": RNG.standard_normal((3, 5)).astype(np.float32),
    "b.bias": RNG.standard_normal(7).astype(jnp.bfloat16),
    "c": np.asarray(RNG.standard_normal(), np.float32),
    "d": np.zeros((0, 4), np.float32),
}


def refused(path, match):
    with pytest.raises(CheckpointError, match=match):
        torch_zip.read(path)


def test_a_state_dict_is_read(tmp_path):
    write_torch(tmp_path / "m.bin", STATE)
    found = torch_zip.read(tmp_path / "m.bin")
    same_arrays(found, STATE)
    np.testing.assert_array_equal(found["a.weight"][slice(1, 3), slice(0, 2)], STATE["a.weight"][1:3, :2])


def test_tensors_may_share_a_storage_be_transposed_and_be_parameters(tmp_path):
    base = STATE["a.weight"]
    content = Pickle().raw(pickle.EMPTY_DICT).text("transposed").tensor("0", base.T, strides=(1, 5))
    content.raw(pickle.SETITEM).text("part").name("torch._utils", "_rebuild_parameter").raw(pickle.MARK)
    content.tensor("0", base[1:, 1:], offset=6, strides=(5, 1)).raw(pickle.NEWTRUE).ordered_dict()
    content.raw(pickle.TUPLE + pickle.REDUCE + pickle.SETITEM)
    write_torch(tmp_path / "m.bin", {"a": base}, pickled=content.done())
    same_arrays(torch_zip.read(tmp_path / "m.bin"), {"transposed": base.T, "part": base[1:, 1:]})


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_the_pickle_is_refused_and_not_run(tmp_path, protocol):
    trap = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            import os

            return os.system, (f"touch {trap}",)

    attack = pickle.dumps({"weight": Attack()}, protocol)
    write_torch(tmp_path / "m.bin", STATE, pickled=attack)
    refused(tmp_path / "m.bin", r"system .*nothing in it was run")
    assert not trap.exists()


def _dict(key):
    return Pickle().ordered_dict().raw(pickle.EMPTY_DICT).text(key)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (Pickle().name("builtins", "eval"), "builtins.eval"),
        (Pickle().name("torch", "load"), "torch.load"),
        (Pickle().name("collections", "OrderedDict").text("a").raw(pickle.TUPLE1 + pickle.REDUCE), "a call of"),
        (_dict("__class__").text("x").raw(pickle.SETITEM + pickle.BUILD), "attributes"),
        (Pickle().name("torch", "FloatStorage").raw(pickle.EMPTY_TUPLE + pickle.NEWOBJ), "NEWOBJ"),
        (Pickle().raw(pickle.MARK).name("torch", "FloatStorage").raw(pickle.OBJ), "OBJ"),
        (Pickle().raw(pickle.PERSID + b"storage\n"), "PERSID"),
        (Pickle().raw(pickle.EXT1 + b"\x01"), "EXT1"),
        (Pickle().raw(pickle.EMPTY_LIST), "EMPTY_LIST"),
        (Pickle().text("a"), "holds a str"),
        (Pickle().raw(pickle.POP), "POP"),
        (Pickle().raw(pickle.TUPLE), "IndexError"),
        (_dict("epoch").whole_number(3).raw(pickle.SETITEM), "epoch"),
        (_dict("a").tensor("9", STATE["a.weight"]).raw(pickle.SETITEM), "lacks"),
        (_dict("a").tensor("0", STATE["a.weight"], offset=1).raw(pickle.SETITEM), "beyond"),
        (_dict("a").tensor("0", STATE["a.weight"], strides=(5, -1)).raw(pickle.SETITEM), "beyond"),
    ],
)  # fmt: skip
def test_anything_but_a_dict_of_tensors_is_refused(tmp_path, content, match):
    write_torch(tmp_path / "m.bin", STATE, pickled=content.done())
    refused(tmp_path / "m.bin", match)


def test_files_torch_does_not_write_are_refused(tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(pickle.dumps({}))
    refused(path, "torch before 1.6")
    write_torch(path, STATE, byteorder=b"big")
    refused(path, "big endian")
    write_torch(path, STATE, compression=zipfile.ZIP_DEFLATED)
    refused(path, "uncompressed")
    write_torch(path, STATE, pickled=Pickle().raw(pickle.EMPTY_DICT).done()[:-1])
    refused(path, "no whole state dict")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/x", b"")
    refused(path, "0 entries data.pkl")
