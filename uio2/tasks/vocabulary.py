"""The text vocabulary: a SentencePiece model extended by Unified-IO 2's special pieces.

Ids, for a base model of n pieces (MODEL.md section 12; n is 32000 in the published models):
  0 `<s>` (padding and start), 1 `</s>` (EOS), 2 `<unk>`, 3 .. n-1 the base pieces in their order,
  n .. n+1199      `<extra_id_1199>` .. `<extra_id_0>` (locations are extra ids 200 .. 1199),
  n+1200 .. n+1215 `<image_history_k>`, `<audio_history_k>` for k = 1 .. 8, interleaved,
  n+1216, n+1217   `<image_input>`, `<audio_input>`,
  n+1218 .. n+1224 `[Text] [S]`, `[Text] [R]`, `[Text] [X]`, `[Image] [S]`, `[Image] [R]`, `[Audio] [S]`, `[Audio] [R]`.
The extension happens on load, so any base model by path works and no second file can disagree with it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import seqio
import tensorflow as tf
import tensorflow_text as tf_text

from uio2.tasks.pieces import (
    EOS_ID,
    NUM_SPECIAL,
    PAD_ID,
    UNK_ID,
    WORD_START,
    ModelProto,
    Pieces,
    VocabularyError,
    extend_model,
    padded_size,
    special_pieces,
    tokenizer_file,
    tokenizer_mismatch,
)


class UnifiedVocabulary(seqio.Vocabulary):
    """A base SentencePiece model by its bytes, extended; Python and TensorFlow paths agree.

    Attributes:
      base_size: pieces of the base model.
      sha256: of the base model's bytes.
      source: where it came from, for messages.
    """

    def __init__(self, base: bytes, *, source: str = "tokenizer") -> None:
        super().__init__(extra_ids=0)
        self._pieces = Pieces(base, source=source)
        self.source, self.sha256, self.base_size = source, self._pieces.sha256, self._pieces.base_size

    @classmethod
    def from_file(cls, path: str | Path) -> UnifiedVocabulary:
        """Reads `tokenizer.model`, or that file in a tokenizer artifact's directory."""
        file = tokenizer_file(path)
        return cls(file.read_bytes(), source=str(file))

    @functools.cached_property
    def tf_tokenizer(self) -> tf_text.SentencepieceTokenizer:
        """The TensorFlow tokenizer, made on first use; int32 ids, no EOS."""
        with tf.init_scope():  # first used inside a traced function, it would belong to that graph alone
            return tf_text.SentencepieceTokenizer(model=self._pieces.model, out_type=tf.int32)

    @property
    def bos_id(self) -> int:
        return PAD_ID

    @property
    def eos_id(self) -> int:
        return EOS_ID

    @property
    def unk_id(self) -> int:
        return UNK_ID

    @property
    def _base_vocab_size(self) -> int:
        return self._pieces.processor.get_piece_size()

    @property
    def padded_size(self) -> int:
        """Rows of the embedding table."""
        return padded_size(self.base_size)

    def piece(self, token: int) -> str:
        """The piece behind a token id."""
        return self._pieces.processor.id_to_piece(int(token))

    def _encode(self, s: str) -> Sequence[int]:
        return self._pieces.processor.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self._pieces.processor.decode([int(i) for i in ids])

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        return self.tf_tokenizer.tokenize(s)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        return self.tf_tokenizer.detokenize(ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnifiedVocabulary) and other.sha256 == self.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)


__all__ = [
    "EOS_ID", "NUM_SPECIAL", "PAD_ID", "UNK_ID", "WORD_START", "ModelProto", "UnifiedVocabulary", "VocabularyError",
    "extend_model", "padded_size", "special_pieces", "tokenizer_mismatch",
]  # fmt: skip
