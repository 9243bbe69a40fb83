"""One training over meshes of eight devices: the same losses and parameters, and nothing whole on one device."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from uio2.model.parts import ConfigError
from uio2.pipeline.stage import StageError, UsageError
from uio2.train.execution import Execution
from uio2.train.sharding import open_mesh

_MESHES = """
import json, pathlib, shutil, sys
import jax
import numpy as np
from tests.train.crew_member import ROWS, context, loss, make_loop, start_on
from uio2.train.checkpoints import Checkpoints
from uio2.train.execution import Execution
from uio2.train.loop import train
from uio2.train.sharding import open_mesh, state_shardings

root, found = pathlib.Path(sys.argv[1]), {}
cases = {
    "one": ({"data": 1}, "data"),
    "data": ({"data": 8}, "data"),
    "fsdp": ({"fsdp": 8}, "fsdp"),
    "both": ({"data": 2, "fsdp": 2, "tensor": 2}, "fsdp_tensor"),
    "own": ({"data": 4, "tensor": 2}, {"mlp": ("tensor",), "vocab": ("tensor",)}),
    "resumed": ({"data": 2, "fsdp": 2, "tensor": 2}, "fsdp_tensor"),
}
for name, (sizes, plan) in cases.items():
    mesh = open_mesh(Execution(mesh=sizes, plan=plan), batch_size=ROWS)
    folder = context(root / name)
    if name == "resumed":
        shutil.copytree(root / "fsdp" / "work" / "checkpoints" / "12", folder.work / "checkpoints" / "12")
    loop, start = make_loop(mesh, plan=plan), start_on(mesh, plan=plan)
    trained = train(loop, start, folder)
    params, history = trained.params, trained.history
    shapes = jax.eval_shape(lambda p: {"params": p, "optimizer": loop.optimizer.init(p)}, start.shapes)
    places = state_shardings(shapes, plan=plan, mesh=mesh)
    parts = [
        max(np.prod(where.shard_shape(leaf.shape)) / max(leaf.size, 1) for leaf, where in pairs)
        for pairs in (
            [(leaf, leaf.sharding) for leaf in jax.tree.leaves(params)],
            [(a, b) for a, b in zip(jax.tree.leaves(shapes["optimizer"]), jax.tree.leaves(places["optimizer"]))
             if a.ndim > 1],
        )
    ]
    found[name] = {
        "losses": [row["loss"] for row in history],
        "params": [np.asarray(leaf).reshape(-1).tolist() for leaf in jax.tree.leaves(params)],
        "largest_part": parts,
    }
print(json.dumps(found))
"""


def test_losses_and_parameters_agree_and_are_split_with_their_moments(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", _MESHES, str(tmp_path)], env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    one = found["one"]
    assert one["losses"][-1] < one["losses"][0] - 0.1
    for mesh, run in found.items():
        np.testing.assert_allclose(run["losses"], one["losses"][-len(run["losses"]) :], rtol=1e-5, err_msg=mesh)
        for value, expected in zip(run["params"], one["params"], strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5, err_msg=mesh)
    parts = {mesh: run["largest_part"] for mesh, run in found.items()}
    assert parts == {
        "one": [1, 1], "data": [1, 1], "fsdp": [1 / 8, 1 / 8], "both": [1 / 4, 1 / 4], "own": [1 / 2, 1 / 2],
        "resumed": [1 / 4, 1 / 4],
    }  # fmt: skip


def test_where_to_run_comes_from_the_environment():
    found = Execution.from_environment({"UIO2_MESH": "fsdp=4,data=2", "UIO2_PLAN": "vocab=fsdp+tensor,embed=fsdp"})
    assert found.mesh == {"data": 2, "fsdp": 4, "tensor": 1}
    assert found.plan == {"vocab": ("fsdp", "tensor"), "embed": ("fsdp",)}
    assert Execution.from_environment({}) == Execution()
    crew = {"UIO2_COORDINATOR": "host:1234", "UIO2_NUM_PROCESSES": "4", "UIO2_PROCESS_ID": "3"}
    assert Execution.from_environment(crew) == Execution(coordinator="host:1234", processes=4, process=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"UIO2_MESH": "rows=2"}, r"UIO2_MESH has rows=2; expected .* data, fsdp, tensor"),
        ({"UIO2_MESH": "data"}, r"UIO2_MESH is 'data'; expected pairs"),
        ({"UIO2_PLAN": "fsdb"}, r"UIO2_PLAN is 'fsdb'; expected data, fsdp"),
        ({"UIO2_PLAN": "embed=rows"}, r"UIO2_PLAN splits embed over rows"),
        ({"UIO2_NUM_PROCESSES": "2"}, r"without UIO2_COORDINATOR"),
        ({"UIO2_NUM_PROCESSES": "2", "UIO2_COORDINATOR": "a:1", "UIO2_PROCESS_ID": "2"}, r"UIO2_PROCESS_ID is 2"),
        ({"UIO2_NUM_PROCESSES": "two"}, r"UIO2_NUM_PROCESSES is 'two'"),
        ({"UIO2_COORDINATOR": "host"}, r"UIO2_COORDINATOR is 'host'; expected host:port"),
    ],
)
def test_variables_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        Execution.from_environment(values)


def test_meshes_that_cannot_work_are_refused():
    with pytest.raises(StageError, match="UIO2_MESH needs 4096 devices"):
        open_mesh(Execution(mesh={"data": 4096}), batch_size=4096)
    with pytest.raises(StageError, match="say by how much in UIO2_MESH"):
        open_mesh(Execution(plan="fsdp_tensor"), batch_size=8)
    with pytest.raises(ConfigError, match="rule for axis 'embedding'"):
        open_mesh(Execution(plan={"embedding": ("fsdp",)}), batch_size=8)
