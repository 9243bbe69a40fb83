"""Whether a media file ends before its container says it does.

FFmpeg plays what is there of a file that was cut short, as a player should; a dataset must not take half a clip for a
whole one. MPEG-4, AVI, AIFF, Matroska and Ogg say how long their parts are. FLAC, whose header says only how many
samples there are, is judged by whoever decodes it, and so is an MP3 whose first frame holds what encoders put there; a
cut MP3 without that cannot be told from a shorter one.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from beam_jobs.dead_letters import BadRecord

_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"uuid", b"sidx", b"styp", b"mfra", b"meta")
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_OGG_PAGE, _OGG_HEADER = b"OggS\0", 27
# A page of Ogg is at most this long, so the last one begins within the last two of them.
_OGG_LONGEST = _OGG_HEADER + 255 + 255 * 255
_MP3_HEAD = 64  # of a frame: its header, room for side information, the mark


def check_whole(file: BinaryIO) -> None:
    """Raises BadRecord `cut_short` for a file that promises more bytes than it has; leaves it at its start."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(64)
    if head[4:8] in _BOXES:
        end = _mpeg4_end(file, length)
    elif head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        end = 8 + int.from_bytes(head[4:8], "little")
    elif head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        end = 8 + int.from_bytes(head[4:8], "big")
    elif head.startswith(_EBML):
        end = _matroska_end(head)
    elif head.startswith(_OGG_PAGE):
        end = _ogg_end(file, length)
    else:
        end = 0
    file.seek(0)
    if end > length:
        raise BadRecord("cut_short", f"{length} bytes; its container says {end}. Fetch the file again")


def mp3_states_length(file: BinaryIO) -> bool:
    """Whether an MP3 says how many frames it has (a frame of Xing's or Fraunhofer's); leaves it at its start."""
    head = file.read(10)
    if head.startswith(b"ID3"):
        # Seven bits of each byte.
        file.seek(10 + sum(byte << 7 * (3 - n) for n, byte in enumerate(head[6:10])))
    else:
        file.seek(0)
    frame = file.read(_MP3_HEAD)
    file.seek(0)
    if b"VBRI" in frame:
        return True
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    return at >= 0 and len(frame) >= at + 8 and bool(frame[at + 7] & 1)


def _mpeg4_end(file: BinaryIO, length: int) -> int:
    """Where the last box ends; what follows boxes of known names is padding and does not count."""
    position = 0
    while position < length:
        file.seek(position)
        header = file.read(16)
        size, name = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if name not in _BOXES or size < 8:
            break
        position += size
    return position


def _matroska_end(head: bytes) -> int:
    """Where the segment ends; 0 where a live recorder left that open."""
    size, start = _ebml_number(head, 4)
    at = start + size
    if size < 0 or head[at : at + 4] != _SEGMENT:
        return 0
    size, start = _ebml_number(head, at + 4)
    return start + size if size >= 0 else 0


def _ebml_number(data: bytes, at: int) -> tuple[int, int]:
    """A length and where it ends; -1 for unknown or unreadable ones."""
    width = 9 - data[at].bit_length() if at < len(data) else 9
    if width > 8 or at + width > len(data):
        return -1, at
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (-1 if value == (1 << 7 * width) - 1 else value), at + width


def _ogg_end(file: BinaryIO, length: int) -> int:
    """Where the last page ends."""
    start = max(0, length - 2 * _OGG_LONGEST)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(_OGG_PAGE)
    header = tail[at : at + _OGG_HEADER]
    if at < 0 or len(header) < _OGG_HEADER:
        return length if at < 0 else length + 1
    sizes = tail[at + _OGG_HEADER : at + _OGG_HEADER + header[-1]]
    return start + at + _OGG_HEADER + header[-1] + sum(sizes)
