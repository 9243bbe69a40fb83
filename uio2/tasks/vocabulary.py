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
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
import seqio
import tensorflow as tf
import tensorflow_text as tf_text
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]  # made at run time

from uio2.tasks.locations import EXTRA_IDS

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
HISTORY_SLOTS = 8
WORD_START = "\u2581"
PARADIGMS = ("[Text] [S]", "[Text] [R]", "[Text] [X]", "[Image] [S]", "[Image] [R]", "[Audio] [S]", "[Audio] [R]")
NUM_SPECIAL = EXTRA_IDS + 2 * HISTORY_SLOTS + 2 + len(PARADIGMS)
PAD_MULTIPLE = 128

# The published checkpoints: pieces of their base model, rows of their embedding, and where the base model is.
PUBLISHED_PIECES, PUBLISHED_ROWS = 32_000, 33_280
PUBLISHED_SOURCE = (
    "`tokenizer.model` of LLaMA 1 or 2 (Meta's download, or the file of that name in a LLaMA 2 repository of the "
    "Hugging Face hub, once its licence is accepted): a SentencePiece model of 32000 pieces, the first of them <unk>, "
    "<s>, </s> and the 256 bytes"
)
_CONTROL = ("<s>", "</s>", "<unk>")
_BYTES = tuple(f"<0x{value:02X}>" for value in range(256))


class VocabularyError(ValueError):
    """A tokenizer file that cannot serve: names the file and what was expected."""


def special_pieces() -> list[str]:
    """The 1225 pieces behind the base model, in id order, with their word-start marker."""
    names = [f"<extra_id_{i}>" for i in reversed(range(EXTRA_IDS))]
    for slot in range(1, HISTORY_SLOTS + 1):
        names += [f"<image_history_{slot}>", f"<audio_history_{slot}>"]
    names += ["<image_input>", "<audio_input>", *PARADIGMS]
    return [WORD_START + name.replace(" ", WORD_START) for name in names]


def padded_size(base_size: int) -> int:
    """Rows of the embedding table: all pieces, rounded up to a multiple of 128."""
    return -(-(base_size + NUM_SPECIAL) // PAD_MULTIPLE) * PAD_MULTIPLE


def tokenizer_mismatch(vocabulary: UnifiedVocabulary, *, rows: int) -> str | None:
    """Why a model whose text embedding has so many rows cannot use a vocabulary, with what to do; None if it can.

    An embedding of the published size is taken for a published one, where every row has a meaning; any other may have
    rows to spare.
    """
    if rows == PUBLISHED_ROWS:
        wrong = _not_published(vocabulary)
        if wrong:
            return (
                f"{vocabulary.source}: {wrong}; a text_vocab_size of {rows} is that of the published checkpoints, "
                f"which need {PUBLISHED_SOURCE}. To train with this tokenizer from scratch, set text_vocab_size to "
                f"{vocabulary.padded_size}"
            )
    if rows < vocabulary.vocab_size:
        return (
            f"{vocabulary.source}: {vocabulary.vocab_size} pieces with the special ones, the model's text_vocab_size "
            f"is {rows}; expected {vocabulary.padded_size}. Set it, or give the tokenizer the model was trained with"
        )
    return None


def _not_published(vocabulary: UnifiedVocabulary) -> str | None:
    if vocabulary.base_size != PUBLISHED_PIECES:
        return f"a base model of {vocabulary.base_size} pieces, expected {PUBLISHED_PIECES}"
    first = len(_CONTROL)
    for token, expected in enumerate(_BYTES, first):
        if vocabulary.piece(token) != expected:
            return f"piece {token} is {vocabulary.piece(token)!r}, expected {expected!r}"
    return None


def extend_model(base: bytes, *, source: str = "tokenizer") -> bytes:
    """The serialized model with control pieces in our order and the special pieces appended.

    Raises:
      VocabularyError: not a SentencePiece model, a control piece is missing, or it is extended already.
    """
    model = ModelProto()
    try:
        model.ParseFromString(base)
    except Exception as error:  # protobuf's DecodeError has moved between its releases
        raise VocabularyError(f"{source}: not a SentencePiece model ({error}){_other_kind(base)}") from error
    by_name = {p.piece: p for p in model.pieces}
    missing = [name for name in _CONTROL if name not in by_name]
    if missing:
        raise VocabularyError(f"{source}: pieces {missing} are missing; expected a model trained with unk, bos and eos")
    specials = special_pieces()
    clash = [name for name in specials if name in by_name]
    if clash:
        raise VocabularyError(f"{source}: holds special pieces already ({clash[0]} ...); give the base model")
    rest = [p for p in model.pieces if p.piece not in _CONTROL]
    pieces = [by_name[name] for name in _CONTROL] + rest
    for name in specials:
        pieces.append(model.SentencePiece(piece=name, score=0.0, type=model.SentencePiece.USER_DEFINED))
    copies = [p.SerializeToString() for p in pieces]
    del model.pieces[:]
    for copy in copies:
        model.pieces.add().ParseFromString(copy)
    model.trainer_spec.bos_id, model.trainer_spec.eos_id, model.trainer_spec.unk_id = PAD_ID, EOS_ID, UNK_ID
    return model.SerializeToString()


def _other_kind(data: bytes) -> str:
    """What files that people mistake for one are, with what to take instead."""
    if data.lstrip().startswith(b"{"):
        return f"; a JSON file, as the hub's tokenizer.json is; take {PUBLISHED_SOURCE}"
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\s", data):
        return f"; a table of ranks, as LLaMA 3's tokenizer.model is, which is of another kind; take {PUBLISHED_SOURCE}"
    return f"; expected one that you trained, or {PUBLISHED_SOURCE}"


class UnifiedVocabulary(seqio.Vocabulary):
    """A base SentencePiece model by its bytes, extended; Python and TensorFlow paths agree.

    Attributes:
      base_size: pieces of the base model.
      sha256: of the base model's bytes.
      source: where it came from, for messages.
    """

    def __init__(self, base: bytes, *, source: str = "tokenizer") -> None:
        super().__init__(extra_ids=0)
        self.source = source
        self._model = extend_model(base, source=source)
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        self.sha256 = hashlib.sha256(base).hexdigest()
        self.base_size = self._processor.get_piece_size() - NUM_SPECIAL

    @classmethod
    def from_file(cls, path: str | Path) -> UnifiedVocabulary:
        """Reads `tokenizer.model`, or that file in a tokenizer artifact's directory."""
        path = Path(path)
        path = path / "tokenizer.model" if path.is_dir() else path
        if not path.is_file():
            raise VocabularyError(f"{path}: no such tokenizer; expected a SentencePiece model file")
        return cls(path.read_bytes(), source=str(path))

    @functools.cached_property
    def tf_tokenizer(self) -> tf_text.SentencepieceTokenizer:
        """The TensorFlow tokenizer, made on first use; int32 ids, no EOS."""
        with tf.init_scope():  # first used inside a traced function, it would belong to that graph alone
            return tf_text.SentencepieceTokenizer(model=self._model, out_type=tf.int32)

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
        return self._processor.get_piece_size()

    @property
    def padded_size(self) -> int:
        """Rows of the embedding table."""
        return padded_size(self.base_size)

    def piece(self, token: int) -> str:
        """The piece behind a token id."""
        return self._processor.id_to_piece(int(token))

    def _encode(self, s: str) -> Sequence[int]:
        return self._processor.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        return self.tf_tokenizer.tokenize(s)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        return self.tf_tokenizer.detokenize(ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnifiedVocabulary) and other.sha256 == self.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)
