"""What examples take: the numbers packing decides on."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int

from uio2.model.config import TARGET_MODALITIES
from uio2.tasks.packing.spec import ITEMS

COLUMNS = ("encoder", "decoder", *ITEMS)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """n examples.

    Attributes:
      encoder, decoder: tokens on either side.
      items: pictures, clips and frames, in the order of `ITEMS`.
    """

    encoder: Int[np.ndarray, " n"]
    decoder: Int[np.ndarray, " n"]
    items: Int[np.ndarray, "n i"]

    @classmethod
    def of(cls, table: Int[np.ndarray, "n c"]) -> Sizes:
        """Columns as `COLUMNS` names them."""
        return cls(table[:, 0], table[:, 1], table[:, 2:])

    def __len__(self) -> int:
        return len(self.encoder)

    def __getitem__(self, index: np.ndarray | slice) -> Sizes:
        return Sizes(self.encoder[index], self.decoder[index], self.items[index])

    @property
    def kinds(self) -> np.ndarray:
        """The largest target modality of each example, a name: image before audio before text."""
        found = np.full(len(self), "text", object)
        for modality in reversed(TARGET_MODALITIES[1:]):
            found[self.items[:, ITEMS.index(f"targets/{modality}")] > 0] = modality
        return found


@dataclasses.dataclass(frozen=True)
class PackedRow:
    """One row: which examples it holds, and the target modality its decoder budget is named for."""

    members: tuple[int, ...]
    kind: str
