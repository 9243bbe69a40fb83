"""Opens films and sounds with PyAV, which brings FFmpeg's libraries, without trusting what they are.

A file is read through the handle it comes with, wherever it lies, and nothing else is: playlists are no known format
here, and a container that points at other files is refused. Decoders run on one thread, so that equal files give
equal frames; which frames those are depends on the version of `av` in the lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from beam_jobs.cut_files import check_whole
from beam_jobs.dead_letters import BadRecord

# Demuxers of FFmpeg by name; none that opens a second file.
FORMATS = (
    "mov", "matroska", "avi", "flv", "mpeg", "mpegts", "mpegvideo", "asf", "dv", "ivf", "nut", "rm",
    "ogg", "wav", "w64", "flac", "mp3", "aac", "aiff", "au", "caf", "amr", "ac3", "eac3", "ape", "wv", "tta",
)  # fmt: skip


@contextmanager
def opened(file: BinaryIO, *, kind: Literal["video", "sound"]) -> Iterator[InputContainer]:
    """The container in a file, from its start.

    Raises:
      BadRecord: `empty_file`, `cut_short`, or `not_a_video` or `not_sound` for what no demuxer knows. What rises from
        FFmpeg inside becomes `undecodable`.
    """
    check_whole(file)
    head = file.read(12)
    file.seek(0)
    if not head:
        raise BadRecord("empty_file", "the file has no bytes")
    try:
        container = av.open(file, "r", options={"format_whitelist": ",".join(FORMATS)}, io_open=_refuse)
    except (av.FFmpegError, ValueError, OSError) as e:
        raise BadRecord("not_a_video" if kind == "video" else "not_sound", f"starts with {head!r}") from e
    with container:
        try:
            yield container
        except (av.FFmpegError, ValueError, OverflowError, MemoryError) as e:
            told = getattr(e, "strerror", None) or f"{type(e).__name__}: {e}"
            raise BadRecord("undecodable", f"{container.format.name}: {told}") from e


def best(container: InputContainer, kind: Literal["video", "audio"], **options: str) -> Any:
    """The stream of a kind that a player would choose, set to decode on one thread; None where there is none.

    A picture of the cover is no video. `options` are those of FFmpeg's decoder.
    """
    stream: Stream | None = container.streams.best(kind)
    if stream is None or stream.disposition & Disposition.attached_pic:
        return None
    if not isinstance(stream, (av.VideoStream, av.AudioStream)) or stream.codec_context is None:
        return None
    stream.codec_context.thread_count = 1
    stream.codec_context.options = options
    return stream


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise BadRecord("refers_elsewhere", f"the container names another file, {url[:80]!r}")
