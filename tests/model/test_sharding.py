"""Parameters split over devices: the published axis names, and the same loss on every mesh."""

import json
import os
import subprocess
import sys

import pytest

from tests.model.reference import SPEC, needs_golden
from uio2.model import ModelConfig
from uio2.model.checkpoint import tree
from uio2.model.checkpoint.names import t5x_names
from uio2.model.parts import ConfigError
from uio2.model.sharding import LAYERS, PLANS, logical_axes, make_mesh, partition_spec


@needs_golden
@pytest.mark.parametrize("size", ["tiny", "large", "xxl"])
def test_logical_axes_are_the_published_ones(size):
    published = json.loads((SPEC / "layout" / f"params_{size}.json").read_text())["params"]
    for ours, theirs in t5x_names(ModelConfig.preset(size)):
        axes, paths = logical_axes(ours), [theirs] if isinstance(theirs, str) else theirs
        assert (axes[0] == LAYERS) == (not isinstance(theirs, str)), ours
        for path in paths:
            assert [axis for axis in axes if axis != LAYERS] == published[path]["axes"], ours


@pytest.mark.parametrize("plan", PLANS)
def test_every_parameter_has_a_place(plan):
    mesh = make_mesh()
    for name, shape in tree.shapes(ModelConfig.preset("base")).items():
        spec = partition_spec(name, shape, plan=plan, mesh=mesh)
        used = [axis for part in spec if part for axis in ((part,) if isinstance(part, str) else part)]
        assert len(used) == len(set(used)), name
        assert len(spec) in (0, len(shape)), name
    with pytest.raises(ConfigError, match="fsdp_tensor"):
        partition_spec("text_embedder/embedding", (8, 8), plan="tensor_only", mesh=mesh)
    with pytest.raises(ConfigError, match="no row"):
        partition_spec("text_embedder/strange", (8, 8), plan=plan, mesh=mesh)


_MESHES = """
import dataclasses, json
import jax
import numpy as np
from flax import nnx
from tests.model import tiny
from uio2.model import multimodal_loss, sharding

config = dataclasses.replace(tiny.EVERYTHING, input_modalities=("text", "image"), target_modalities=("text",))
parts = ("inputs/text", "inputs/image/", "targets/text")
batch = {k: v for k, v in tiny.everything(rows=8).items() if k.startswith(parts)}
model, found = tiny.make(config), {}
for plan, sizes in (("data", (1, 1, 1)), ("data", (8, 1, 1)), ("fsdp", (1, 8, 1)), ("fsdp_tensor", (2, 2, 2)),
                    ("fsdp_tensor", (1, 4, 2)), ("fsdp_tensor", (4, 1, 2))):
    mesh = sharding.make_mesh(**dict(zip(sharding.MESH_AXES, sizes)))
    graph, state = nnx.split(sharding.place(model, plan=plan, mesh=mesh))
    step = jax.jit(jax.value_and_grad(lambda s, b: multimodal_loss(nnx.merge(graph, s)(b))[0]))
    with sharding.rows_split(mesh):
        value, gradients = step(state, sharding.place_batch(batch, mesh=mesh))
    leaves = jax.tree.leaves(gradients)
    norm = float(np.sqrt(sum(float((leaf**2).sum()) for leaf in leaves)))
    table = nnx.merge(graph, state).text_embedder.embedding[...]
    found["x".join(map(str, sizes))] = [float(value), norm, table.addressable_shards[0].data.size / table.size]
print(json.dumps(found))
"""


@pytest.mark.long
def test_losses_and_gradients_agree_over_six_meshes():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", _MESHES], env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 6
    loss, norm, whole = found["1x1x1"]
    assert whole == 1
    for mesh, (value, gradient, _) in found.items():
        assert value == pytest.approx(loss, rel=1e-5), mesh
        assert gradient == pytest.approx(norm, rel=1e-4), mesh
    assert {mesh: part for mesh, (_, _, part) in found.items()} == {
        "1x1x1": 1, "8x1x1": 1, "1x8x1": 1 / 8, "2x2x2": 1 / 4, "1x4x2": 1 / 8, "4x1x2": 1 / 2
    }  # fmt: skip
