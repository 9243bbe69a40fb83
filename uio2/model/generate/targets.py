"""What decoding must know of a target modality: positions, ids, and how a token enters and leaves the decoder."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from uio2.model.config import ModelConfig
from uio2.model.parts import ConfigError
from uio2.model.unified_io import UnifiedIO2

START, EOS = 0, 1


@dataclasses.dataclass(frozen=True)
class Target:
    """One target modality of a model.

    Attributes:
      modality: its name.
      length: text: most tokens its positions allow. Otherwise: tokens it always has.
      first, end: ids that may be produced are first <= id < end. Text: all; padding and rows beyond the vocabulary
        were never a target, so a trained model gives them no chance (`allowed` forbids them to others). Images and
        spectrograms: codes + 2 (0 starts, 1 masks; rows beyond the codebook pad the embedding).
      vocab_size: rows of the embedding, so ids there are logits of.
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
        return cls("text", config.text_vocab_size, config.decoder_max_text_length, 0, config.text_vocab_size, EOS)

    def as_in_original(self) -> Target:
        """All ids may be produced, and id 1 ends any modality (spec section 11)."""
        return dataclasses.replace(self, first=0, end=self.vocab_size, eos=EOS)

    def embed(
        self, model: UnifiedIO2, tokens: Int[Array, "b n"], *, index: Int[Array, ""]
    ) -> tuple[Float[Array, "b n d"], Array | None]:
        """Decoder input of tokens that all stand at position `index`, and its rotary row [1, 1, k/2, 2]."""
        ones = jnp.ones(tokens.shape, jnp.int32)
        segment = model.target_segment(tokens, mask=ones, pos_ids=ones * index, segment_ids=None)
        return segment.embed, segment.rotary

    def logits(self, model: UnifiedIO2, hidden: Float[Array, "b n d"]) -> Float[Array, "b n v"]:
        return model.text_embedder.logits(hidden)
