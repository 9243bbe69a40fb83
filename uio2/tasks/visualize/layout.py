"""How full the rows of encoder and decoder are, from the masks of a batch; and who shares a row once it is packed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from uio2.model.config import ModelConfig

# Tokens that a frame or segment of history becomes in the published models.
LATENTS = {
    "image_history": ModelConfig.image_resampler.num_latents,
    "audio_history": ModelConfig.audio_resampler.num_latents,
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One modality of one example in a row: real tokens and the places the batch has for them."""

    modality: str
    tokens: int
    places: int


@dataclasses.dataclass(frozen=True)
class Side:
    """The encoder's or the decoder's share of one example."""

    name: str
    parts: tuple[Part, ...]

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)

    @property
    def places(self) -> int:
        return sum(part.places for part in self.parts)


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which examples of the page share rows.

    Attributes:
      rows: the row of each example.
      lengths: places of the encoder's and of the decoder's row.
    """

    rows: Sequence[int]
    lengths: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Block:
    """Tokens of one modality of one example in a packed row; `example` counts from 1."""

    example: int
    modality: str
    tokens: int


@dataclasses.dataclass(frozen=True)
class PackedRow:
    """One row of one side, in the order in which the model places it; `examples` share it."""

    side: str
    length: int
    examples: int
    blocks: tuple[Block, ...]

    @property
    def tokens(self) -> int:
        return sum(block.tokens for block in self.blocks)


def sides(example: Mapping[str, np.ndarray]) -> tuple[Side, Side]:
    """Encoder and decoder of one example of a model batch."""
    encoder: list[Part] = []
    decoder: list[Part] = []
    for key, mask in example.items():
        side, modality, name = (*key.split("/"), "", "")[:3]
        if name != "mask":
            continue
        if modality in LATENTS:
            frames = int(mask.any(axis=-1).sum())
            part = Part(modality, frames * LATENTS[modality], len(mask) * LATENTS[modality])
        else:
            part = Part(modality, int((mask > 0).sum()), len(mask))
        (encoder if side == "inputs" else decoder).append(part)
    return Side("encoder", tuple(encoder)), Side("decoder", tuple(decoder))


def packed_rows(examples: Sequence[tuple[Side, Side]], packing: Packing) -> list[PackedRow]:
    """Two rows, encoder and decoder, for every row of the packing: modality after modality, as the model has them.

    Raises:
      ValueError: the packing is of another number of examples.
    """
    if len(packing.rows) != len(examples):
        raise ValueError(f"the packing places {len(packing.rows)} examples, the page shows {len(examples)}")
    found = []
    for row in sorted(set(packing.rows)):
        members = [n for n, r in enumerate(packing.rows) if r == row]
        for number, length in enumerate(packing.lengths):
            parts = [(n, part) for n in members for part in examples[n][number].parts if part.tokens]
            order = {part.modality: None for part in examples[members[0]][number].parts}
            blocks = [Block(n + 1, part.modality, part.tokens) for name in order for n, part in parts
                      if part.modality == name]  # fmt: skip
            found.append(PackedRow(examples[members[0]][number].name, length, len(members), tuple(blocks)))
    return found
