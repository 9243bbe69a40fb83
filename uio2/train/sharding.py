"""Where arrays live: one mesh over all devices, batches split by rows, parameters on every device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from uio2.pipeline.stage import StageError


def data_mesh(*, batch_size: int) -> Mesh:
    """A one-axis mesh `data` over every device.

    Raises:
      StageError: the batch cannot be split evenly.
    """
    devices = np.array(jax.devices())
    if batch_size % len(devices):
        raise StageError(
            f"batch_size is {batch_size}; expected a multiple of the {len(devices)} devices it is split over"
        )
    return Mesh(devices, ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device, whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """Leading axis split over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """This process's rows of a global batch as global arrays; the numbers never pass through one host."""
    return {key: jax.make_array_from_process_local_data(by_rows(mesh), value) for key, value in batch.items()}
