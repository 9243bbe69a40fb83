"""TPU slices as Google Kubernetes Engine names them: what `v5e:4x8` asks of a cluster."""

from __future__ import annotations

import dataclasses
import math
import re

from uio2.pipeline.stage import UsageError

# Version -> the node label's value, axes of its topologies, most chips of one slice.
_VERSIONS = {
    "v4": ("tpu-v4-podslice", 3, 4096),
    "v5e": ("tpu-v5-lite-podslice", 2, 256),
    "v5p": ("tpu-v5p-slice", 3, 8960),
    "v6e": ("tpu-v6e-slice", 2, 256),
}
CHIPS_PER_HOST = 4


@dataclasses.dataclass(frozen=True)
class Slice:
    """One TPU slice.

    Attributes:
      version: `v4`, `v5e`, `v5p` or `v6e`.
      topology: chips along each axis, as `4x8`.
    """

    version: str
    topology: str

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Reads `VERSION:TOPOLOGY`. Raises UsageError saying what would be right."""
        version, _, topology = text.partition(":")
        if version not in _VERSIONS:
            raise UsageError(
                f"--topology {text}: expected VERSION:CHIPS with one of {', '.join(_VERSIONS)}, like v5e:4x8"
            )
        _, axes, most = _VERSIONS[version]
        sides = [int(side) for side in topology.split("x")] if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", topology) else []
        example = "4x8" if axes == 2 else "2x2x4"
        if len(sides) != axes:
            raise UsageError(f"--topology {text}: a {version} slice has {axes} axes; write {version}:{example}")
        chips = math.prod(sides)
        if chips > most or (chips > CHIPS_PER_HOST and chips % CHIPS_PER_HOST) or chips == 2 or chips == 3:
            raise UsageError(f"--topology {text} is {chips} chips; expected 1, or whole hosts of {CHIPS_PER_HOST} up "
                             f"to {most}, like {version}:{example}")  # fmt: skip
        return cls(version, topology)

    @property
    def accelerator(self) -> str:
        """Value of the node label `cloud.google.com/gke-tpu-accelerator`."""
        return _VERSIONS[self.version][0]

    @property
    def chips(self) -> int:
        """Chips of the slice."""
        return math.prod(int(side) for side in self.topology.split("x"))

    @property
    def hosts(self) -> int:
        """Machines of the slice, one pod on each."""
        return max(1, self.chips // CHIPS_PER_HOST)
