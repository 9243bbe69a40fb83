"""Token ids as pieces a person can read, each of a kind that the page colours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Int

from uio2.tasks.locations import EOS_ID, EXTRA_IDS, FIRST_LOCATION, LOCATION_BINS

WORD_START = "\u2581"
KINDS = {
    "word": "text",
    "location": "location, 0 to 1",
    "sentinel": "sentinel of a gap",
    "media": "image or audio input",
    "mode": "modality and denoiser",
    "end": "end",
    "byte": "byte",
    "odd": "unknown",
}
_EXTRA = re.compile(r"<extra_id_(\d+)>")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Pieces(Protocol):
    """What is needed of a vocabulary (`uio2.tasks.vocabulary.UnifiedVocabulary`)."""

    base_size: int

    @property
    def vocab_size(self) -> int: ...

    def piece(self, token: int) -> str: ...


@dataclasses.dataclass(frozen=True)
class Token:
    """One token.

    Attributes:
      text: its piece without the mark of a word start; the number of a location.
      kind: a key of `KINDS`.
      starts_word: whether the piece begins a word.
      note: all that is known of it.
      counted: whether it counts in the loss; true for inputs.
      opens: whether a further target of the same example begins with it.
    """

    text: str
    kind: str
    starts_word: bool
    note: str
    counted: bool = True
    opens: bool = False


def inputs(ids: Int[np.ndarray, " t"], *, mask: Int[np.ndarray, " t"], vocabulary: Pieces) -> list[Token]:
    """The prompt; what stands behind its last real token is left out."""
    return [_token(int(i), vocabulary=vocabulary, note=f"place {n}") for n, i in enumerate(ids[: _length(mask)])]


def targets(ids: Int[np.ndarray, " d"], *, mask: Int[np.ndarray, " d"], before: Int[np.ndarray, " d"],
            positions: Int[np.ndarray, " d"], segments: Int[np.ndarray, " d"],
            vocabulary: Pieces) -> list[Token]:  # fmt: skip
    """The target's tokens; `before` are the decoder's inputs at the same places, `mask` is that of the loss."""
    found = []
    for n in range(_length(segments)):
        fed = vocabulary.piece(int(before[n])) if before[n] < vocabulary.vocab_size else "?"
        note = f"place {positions[n]} of target {segments[n]}, decoder reads {fed}"
        token = _token(int(ids[n]), vocabulary=vocabulary, note=note)
        opens = bool(n and segments[n] != segments[n - 1])
        found.append(dataclasses.replace(token, counted=bool(mask[n]), opens=opens))
    return found


def text_of(ids: Sequence[int], *, vocabulary: Pieces) -> str:
    """Plain text of ordinary pieces and bytes; special ones are left out."""
    data = b""
    for token in (_token(int(i), vocabulary=vocabulary, note="") for i in ids):
        if token.kind == "word":
            data += ((" " if token.starts_word else "") + token.text).encode()
        elif token.kind == "byte":
            data += bytes.fromhex(token.text[3:5])
    return data.decode("utf-8", "replace").strip()


def _length(mask: Int[np.ndarray, " t"]) -> int:
    there = np.flatnonzero(mask)
    return int(there[-1]) + 1 if len(there) else 0


def _token(token: int, *, vocabulary: Pieces, note: str) -> Token:
    if not 0 <= token < vocabulary.vocab_size:
        return Token("?", "odd", False, f"id {token}: no such piece; {note}")
    piece = vocabulary.piece(token)
    name = piece.removeprefix(WORD_START).replace(WORD_START, " ")
    kind, text = _kind(token, name, base_size=vocabulary.base_size)
    return Token(text, kind, piece.startswith(WORD_START), f"id {token}: {name or 'space'}; {note}")


def _kind(token: int, name: str, *, base_size: int) -> tuple[str, str]:
    """Kind and text. Special pieces lie above the base model, so ordinary text that looks like one is text."""
    if token >= base_size:
        if extra := _EXTRA.fullmatch(name):
            number = int(extra.group(1))
            if number >= FIRST_LOCATION:
                return "location", f"{(number - FIRST_LOCATION) / (LOCATION_BINS - 1):.3f}".removeprefix("0")
            return "sentinel", f"gap {number}"
        return ("media" if token < base_size + EXTRA_IDS + 18 else "mode"), name
    if token == EOS_ID:
        return "end", "end"
    if token < 3:
        return "odd", name
    return ("byte" if _BYTE.fullmatch(name) else "word"), name
