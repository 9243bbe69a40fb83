"""The devices of one host that predict together: batches split by rows, parameters by the plan in `UIO2_PLAN`.

Hosts do not talk to each other here, so only local devices count, and a model must fit those of one host.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from uio2.model.checkpoint import tree
from uio2.model.config import ModelConfig
from uio2.model.parts import ConfigError
from uio2.model.sharding import partition_spec
from uio2.pipeline.stage import StageError

PLAN, PLANS = "UIO2_PLAN", ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where a model and its batches go.

    Attributes:
      mesh: one axis over the devices; None for a single one.
      plan: `data`, every device holds all parameters; `fsdp`, each holds a part.
    """

    mesh: Mesh | None = None
    plan: str = "data"

    @classmethod
    def here(cls, *, batch_size: int) -> Devices:
        """As many of this host's devices as divide a batch.

        Raises:
          StageError: the environment asks for a plan that is none of this host's.
        """
        plan = os.environ.get(PLAN) or "data"
        if plan not in PLANS:
            raise StageError(f"{PLAN} is {plan!r}; prediction splits over the devices of a host: {' or '.join(PLANS)}")
        devices = jax.local_devices()
        count = math.gcd(len(devices), batch_size)
        if count < len(devices):
            print(f"{count} of {len(devices)} devices are used: batch_size {batch_size} is no multiple of more")
        return cls(Mesh(np.array(devices[:count]), (plan,)), plan) if count > 1 else cls()

    def placement(self, config: ModelConfig) -> Callable[[str], Sharding] | None:
        """Parameter name -> where it goes; None for one device."""
        mesh = self.mesh
        if mesh is None:
            return None
        shapes = tree.shapes(config)

        def place(name: str) -> Sharding:
            try:
                return NamedSharding(mesh, partition_spec(name, shapes[name], plan=self.plan, mesh=mesh))
            except ConfigError:  # no row in the table of logical axes: whole on every device
                return NamedSharding(mesh, PartitionSpec())

        return place

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The inputs of a batch, rows split; what is no input stays as it is."""
        if self.mesh is None:
            return dict(batch)
        rows = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        return {k: jax.device_put(v, rows) if k.startswith("inputs/") else v for k, v in batch.items()}
