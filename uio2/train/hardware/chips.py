"""The chips that can be planned for: memory, speed, price; and how `--topology` names several of them. Light.

Memory, speed and bandwidth are the makers' (Google Cloud's TPU pages, NVIDIA's data sheets; bf16 without sparsity).
Prices are assumptions: on-demand list prices per chip-hour in US regions as we knew them in November 2026, to be
overridden by what you pay (`--price`).
"""

from __future__ import annotations

import dataclasses

from uio2.pipeline.launch.topology import Slice
from uio2.pipeline.stage import UsageError

GIB = 2**30
PRICES_OF = "2026-11"
CPU, TPU, GPU = "cpu", "tpu", "cuda"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX sees it.

    Attributes:
      name: as `--topology` has it.
      platform: whose compiler: `tpu`, `cuda` or `cpu`.
      memory: GiB a program may use.
      flops: peak bf16 operations per second.
      bandwidth: bytes per second to and from its memory.
      price: US dollars per chip-hour, an assumption of `PRICES_OF`.
    """

    name: str
    platform: str
    memory: float
    flops: float
    bandwidth: float
    price: float


CHIPS = {
    chip.name: chip
    for chip in (
        # A v4 and a v5p chip is one device (megacore), not two cores.
        Chip("v4", TPU, 31.75, 275e12, 1.2e12, 3.22),
        Chip("v5e", TPU, 15.75, 197e12, 0.82e12, 1.20),
        Chip("v5p", TPU, 95.0, 459e12, 2.77e12, 4.20),
        Chip("v6e", TPU, 31.25, 918e12, 1.64e12, 2.70),
        # What the driver keeps for itself and XLA's default share of 75% are not the same: this is all there is.
        Chip("h100", GPU, 79.1, 989e12, 3.35e12, 11.0),
        Chip("h200", GPU, 139.8, 989e12, 4.8e12, 11.0),
        # For trying things out: no claim about any machine.
        Chip("cpu", CPU, 16.0, 1e12, 0.1e12, 0.0),
    )
}
# How JAX calls them (`Device.device_kind`), the longer name first where one begins like another.
KINDS = {"TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v6 lite": "v6e", "TPU v6e": "v6e", "TPU v5": "v5p",
         "TPU v4": "v4", "NVIDIA H100": "h100", "NVIDIA H200": "h200"}  # fmt: skip
MOST_LOCAL = 8  # of GPUs on one machine, and of pretended CPU devices without surprises


def peak_flops(kind: str) -> float:
    """Peak bf16 operations per second of a device of this kind, as JAX names it; 0 for one that is not known."""
    return next((CHIPS[name].flops for start, name in KINDS.items() if kind.startswith(start)), 0.0)


@dataclasses.dataclass(frozen=True)
class Topology:
    """So many chips: what JAX calls them is `shape`."""

    chip: Chip
    shape: str
    devices: int

    @classmethod
    def parse(cls, text: str) -> Topology:
        """Reads `v5e:4x8`, `h200:8` or `cpu:8`. Raises UsageError saying what would be right."""
        name, _, shape = text.partition(":")
        if name not in CHIPS:
            raise UsageError(f"--topology {text}: expected CHIP:SHAPE with one of {', '.join(CHIPS)}, like v5e:4x8")
        chip = CHIPS[name]
        if chip.platform == TPU:
            return cls(chip, shape, Slice.parse(text).chips)
        if not shape.isdigit() or not 0 < int(shape) <= 4096 or (chip.platform == GPU and _uneven(int(shape))):
            raise UsageError(f"--topology {text}: expected {name}:COUNT, 1 to {MOST_LOCAL} or whole machines of "
                             f"{MOST_LOCAL}, like {name}:8")  # fmt: skip
        return cls(chip, shape, int(shape))

    @property
    def text(self) -> str:
        return f"{self.chip.name}:{self.shape}"

    @property
    def machines(self) -> str:
        """As XLA names GPUs: partitions x machines x chips of one."""
        return f"1x{max(1, self.devices // MOST_LOCAL)}x{min(self.devices, MOST_LOCAL)}"


def _uneven(count: int) -> bool:
    return count > MOST_LOCAL and count % MOST_LOCAL != 0
