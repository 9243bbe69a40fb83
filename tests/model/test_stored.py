"""Checkpoints are read tensor by tensor, straight to where each parameter lives."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.checkpoints import SMALL, random_tree
from uio2.model.checkpoint import huggingface, native, t5x, t5x_files

ROOT = Path(__file__).parents[2]
# 51 million parameters in stacks of at most 19 MB.
LARGE = dataclasses.replace(
    SMALL, emb_dim=512, num_heads=8, head_dim=64, mlp_dim=1536, num_encoder_layers=6, num_decoder_layers=6,
    text_vocab_size=8192, input_modalities=("text",), target_modalities=("text",),
)  # fmt: skip
LITTLE = dataclasses.replace(LARGE, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=16, text_vocab_size=64)

# Loads a small model, so that everything is imported and compiled, then the large one.
_PEAK = """
import json, re, sys
import jax
from uio2.model import ModelConfig
from uio2.model.checkpoint import huggingface, native, t5x, tree

kind, folder, *configs = sys.argv[1:]
peaks = []
for name, text in zip(("little", "large"), configs):
    config = ModelConfig.from_json(text)
    path = f"{folder}/{name}"
    if kind == "t5x":
        model = t5x.load(path, config=config)
    else:
        model = {"native": native, "hub": huggingface}[kind].load(path)
    # Not getrusage: its peak is inherited from the process that started this one.
    peaks.append(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
size = sum(array.nbytes for array in tree.flatten(model).values())
print(json.dumps({"grown": peaks[1] - peaks[0], "size": size}))
"""


def run(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=False, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["hub", "native", "t5x"])
def test_loading_never_needs_twice_the_model_s_memory(tmp_path, kind):
    for name, config in (("little", LITTLE), ("large", LARGE)):
        flat = random_tree(config)
        if kind == "t5x":
            t5x_files.write(tmp_path / name, flat)
        else:
            {"native": native, "hub": huggingface}[kind].save(t5x.from_tree(flat, config=config), tmp_path / name)
    # Freed arrays go back at once: what is measured is what the reader holds, not what malloc keeps for later.
    returned = {"MALLOC_MMAP_THRESHOLD_": "131072"}
    peak = run(_PEAK, kind, tmp_path, LITTLE.to_json(), LARGE.to_json(), **returned)
    assert peak["size"] > 200e6
    assert peak["grown"] > 0.9 * peak["size"], "the measurement does not see the model"
    assert peak["grown"] < 1.6 * peak["size"], f"{peak['grown'] / peak['size']:.2f} times the model"


_SHARDED = """
import json, sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from uio2.model.checkpoint import huggingface, stored, t5x, tree

mesh = jax.make_mesh((4,), ("tensor",))
read, largest = stored.Permuted.__getitem__, {}

def recorded(self, index):
    part = read(self, index)
    largest[id(self.base)] = max(largest.get(id(self.base), 0), part.size / max(1, np.prod(self.shape)))
    return part

def placement(name):
    if name.endswith("mlp/wo/kernel") and name.startswith("encoder"):
        return NamedSharding(mesh, PartitionSpec(None, "tensor", None))
    if name == "text_embedder/embedding":
        return NamedSharding(mesh, PartitionSpec("tensor", None))
    return None if "norm" in name else NamedSharding(mesh, PartitionSpec())

folder = sys.argv[1]
plain = tree.flatten(huggingface.load(folder))
stored.Permuted.__getitem__ = recorded
split = tree.flatten(huggingface.load(folder, sharding=placement))
equal = all(np.array_equal(np.asarray(split[name]), np.asarray(plain[name])) for name in plain)
kernel = split["encoder/blocks/layers/mlp/wo/kernel"]
print(json.dumps({
    "equal": equal,
    "shard": kernel.addressable_shards[1].data.shape,
    "rows": split["text_embedder/embedding"].addressable_shards[0].data.shape,
    "everywhere": len(split["decoder/blocks/layers/mlp/wo/kernel"].addressable_shards),
    "parts": sorted(largest.values())[:2],
}))
"""


def test_each_device_reads_its_own_part(tmp_path):
    config = dataclasses.replace(LITTLE, num_encoder_layers=2, num_decoder_layers=1)
    huggingface.save(t5x.from_tree(random_tree(config), config=config), tmp_path / "m")
    found = run(_SHARDED, tmp_path / "m", XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert found == {"equal": True, "shard": [2, 4, 16], "rows": [16, 16], "everywhere": 4, "parts": [0.25, 0.25]}
