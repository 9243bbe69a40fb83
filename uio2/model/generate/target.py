"""What decoding must know of a target modality: how long it is, which ids exist, and when it ends."""

from __future__ import annotations

import dataclasses

from uio2.model.config import ModelConfig
from uio2.model.parts import ConfigError
from uio2.model.targets import FIRST_CODE

EOS = 1


@dataclasses.dataclass(frozen=True)
class Target:
    """One target modality of a model.

    Attributes:
      modality: its name.
      vocab_size: rows of the embedding, so ids there are logits of.
      length: text: most tokens its positions allow. Otherwise: tokens it always has.
      first, end: ids that may be produced are first <= id < end. Text: all; padding and rows beyond the vocabulary
        were never a target, so a trained model gives them no chance (`allowed` forbids them to others). Images and
        spectrograms: codes + 2 (0 starts, 1 masks; rows beyond the codebook pad the embedding).
      eos: the id that ends a sequence, None where the length is fixed.
    """

    modality: str
    vocab_size: int
    length: int
    first: int
    end: int
    eos: int | None

    @classmethod
    def of(cls, config: ModelConfig, modality: str) -> Target:
        """Raises `ConfigError` when the model has no such target."""
        if modality not in config.target_modalities:
            raise ConfigError(
                f"modality is {modality!r}; this model's target_modalities are {list(config.target_modalities)}"
            )
        if modality == "text":
            return cls(modality, config.text_vocab_size, config.decoder_max_text_length, 0, config.text_vocab_size, EOS)
        image = modality == "image"
        codec = config.image_codec if image else config.audio_codec
        vocab_size = config.image_vocab_size if image else config.audio_vocab_size
        rows, columns = codec.grid
        return cls(modality, vocab_size, rows * columns, FIRST_CODE, FIRST_CODE + codec.num_codes, None)

    def as_in_original(self) -> Target:
        """All ids may be produced, and id 1 ends any modality (spec section 11)."""
        return dataclasses.replace(self, first=0, end=self.vocab_size, eos=EOS)
