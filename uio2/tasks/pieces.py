"""The pieces of a tokenizer file: checked, extended by Unified-IO 2's special pieces, compared with a model's table.

Light: SentencePiece alone, no TensorFlow, so that a command can refuse a tokenizer before anything starts. What the ids
mean is said in `vocabulary.py`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Protocol

import sentencepiece
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


class PieceTable(Protocol):
    """What a tokenizer is compared by: `Pieces`, or the whole `UnifiedVocabulary`."""

    source: str
    base_size: int

    @property
    def vocab_size(self) -> int: ...

    @property
    def padded_size(self) -> int: ...

    def piece(self, token: int) -> str: ...


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


def tokenizer_mismatch(vocabulary: PieceTable, *, rows: int) -> str | None:
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


def _not_published(vocabulary: PieceTable) -> str | None:
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


class Pieces:
    """An extended model without its TensorFlow side.

    Attributes:
      base_size: pieces of the base model.
      sha256: of the base model's bytes.
      source: where it came from, for messages.
      model: the extended model, serialized.
      processor: what encodes and decodes with it.
    """

    def __init__(self, base: bytes, *, source: str = "tokenizer") -> None:
        self.source = source
        self.model = extend_model(base, source=source)
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        self.sha256 = hashlib.sha256(base).hexdigest()
        self.base_size = self.processor.get_piece_size() - NUM_SPECIAL

    @classmethod
    def from_file(cls, path: str | Path) -> Pieces:
        """Reads `tokenizer.model`, or that file in a folder. Raises VocabularyError."""
        file = tokenizer_file(path)
        return cls(file.read_bytes(), source=str(file))

    @property
    def vocab_size(self) -> int:
        """All pieces, the special ones included."""
        return self.processor.get_piece_size()

    @property
    def padded_size(self) -> int:
        """Rows of the embedding table."""
        return padded_size(self.base_size)

    def piece(self, token: int) -> str:
        """The piece behind a token id."""
        return self.processor.id_to_piece(int(token))


def tokenizer_file(path: str | Path) -> Path:
    """The file itself, or `tokenizer.model` in a folder. Raises VocabularyError if it is not there."""
    path = Path(path)
    path = path / "tokenizer.model" if path.is_dir() else path
    if not path.is_file():
        raise VocabularyError(f"{path}: no such tokenizer; expected a SentencePiece model file")
    return path
