"""Settings of packing; nothing heavy is imported here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from uio2.model.config import INPUT_MODALITIES, TARGET_MODALITIES
from uio2.pipeline.stage import StageError

STRATEGIES = ("none", "best_fit", "pairs")
# What a batch may be limited in: pictures, clips and frames of history, by the start of their keys.
ITEMS = (*(f"inputs/{m}" for m in INPUT_MODALITIES[1:]), *(f"targets/{m}" for m in TARGET_MODALITIES[1:]))


@dataclasses.dataclass(frozen=True)
class PackingSpec:
    """How examples share rows.

    Attributes:
      strategy: `none`, `best_fit` (any number of examples a row) or `pairs` (at most two, as the original).
      encoder: tokens of an encoder row. The default is the published models'; where pictures are large beside it, twice
        that fills far better.
      decoder: tokens of a decoder row, by the largest target modality in it: a batch holds rows of one kind, so rows of
        text alone need not be as long as a picture's. `pairs` uses the longest for all.
      budget: items a batch holds at most, by the start of their keys (`inputs/image`, `inputs/image_history`, ...);
        those that are not named have no limit. Make it many rows' worth: a batch is given more where the rows of the
        window cannot be spread within it, because nothing is dropped.
      window_rows: rows that are packed together, at least; a larger window fills better and takes longer to start.
      pool: with `pairs`, how many examples wait for a partner.
      groups: parts of a batch that are packed on their own, each with its share of the rows. A multiple of the number
        of hosts and of devices, so that no token leaves its device.
    """

    strategy: str = "none"
    encoder: int = 864
    decoder: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"text": 512, "image": 1280, "audio": 1280})
    budget: Mapping[str, int] = dataclasses.field(default_factory=dict)
    window_rows: int = 1024
    pool: int = 10
    groups: int = 1

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise StageError(f"PackingSpec.strategy is {self.strategy!r}; expected one of {', '.join(STRATEGIES)}")
        for field in ("encoder", "window_rows", "pool", "groups"):
            if getattr(self, field) < 1:
                raise StageError(f"PackingSpec.{field} is {getattr(self, field)}; expected 1 or more")
        for field, known in (("decoder", TARGET_MODALITIES), ("budget", ITEMS)):
            for name, count in getattr(self, field).items():
                if name not in known or count < 1:
                    raise StageError(
                        f"PackingSpec.{field}[{name!r}] is {count}; expected 1 or more for one of {', '.join(known)}"
                    )

    @property
    def packs(self) -> bool:
        """Whether anything is packed."""
        return self.strategy != "none"
