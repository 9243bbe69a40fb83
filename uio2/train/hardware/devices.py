"""Devices that are not here, as JAX's compilers for them describe them. Runs in a process of its own: plugins stay.

`PYTHONPATH` of that process has the folder that `make hardware` fills; nothing else of the project sees it.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.experimental import topologies

from uio2.train.hardware.chips import GIB, GPU, TPU, Topology

# What XLA asks about a GPU: its architecture, and how much there is of what.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: {memory} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 }} registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "NVIDIA {name}"
"""


def devices(topology: Topology) -> list[Any]:
    """The devices of a topology, to lower and compile for."""
    chip = topology.chip
    if chip.platform == TPU:
        options = {"chip_config_name": "megacore"} if chip.name in ("v4", "v5p") else {}
        return list(topologies.get_topology_desc(topology.text, platform=TPU, **options).devices)
    if chip.platform == GPU:
        target = _HOPPER.format(
            bandwidth=int(chip.bandwidth), memory=int(chip.memory * GIB), name=f"{chip.name.upper()}"
        )
        found = topologies.get_topology_desc("", platform=GPU, topology=topology.machines, target_config=target)
        return list(found.devices)
    return list(jax.devices("cpu")[: topology.devices])
