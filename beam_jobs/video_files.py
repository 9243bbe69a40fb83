"""A few frames of a clip, evenly spaced, as JPEG of one size: from a folder of pictures, an animation, or a video file.

Animations (GIF, WebP, AVIF, APNG) are read with Pillow, any other file with PyAV, whatever its name ends with.
"""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence, UnidentifiedImageError

from beam_jobs import sources
from beam_jobs.dead_letters import BadRecord
from beam_jobs.frames import FrameSettings, check_length, jpegs
from beam_jobs.images import check_image
from beam_jobs.sound_files import decoded
from beam_jobs.video_frames import read_video

PICTURES = (".jpg", ".jpeg", ".png")
ANIMATIONS = (".gif", ".webp", ".avif", ".apng")
# An animation's frame without a duration; what browsers take.
_FRAME_S = 0.1


@dataclasses.dataclass(frozen=True)
class Clip:
    """JPEG frames, oldest first, and the clip's length in seconds."""

    frames: tuple[bytes, ...]
    seconds: float


def read_clip(path: str, settings: FrameSettings, *, seconds: float = 0.0, rate: float = 0.0) -> Clip:
    """The frames of a clip.

    Args:
      path: a folder, an animation or a video file.
      settings: how many frames, how large.
      seconds: the length, where the caller knows it; else found out.
      rate: frames a second of a folder, where the caller knows it.

    Raises:
      BadRecord: `empty_clip`, `undecodable`, `too_long`, `frame_sizes`, or a reason of `check_image` or `read_video`.
    """
    if os.path.isdir(path):
        clip = _folder(path, settings, seconds=seconds, rate=rate or settings.frame_rate)
    elif path.lower().endswith(ANIMATIONS):
        clip = _animation(path, settings)
    else:
        images, length = read_video(path, settings)
        clip = Clip(jpegs(images, settings), length)
    return clip if not seconds else dataclasses.replace(clip, seconds=seconds)


def middles(count: int, wanted: int) -> list[int]:
    """The numbers of the frames in the middles of `wanted` equal parts of `count`; all where there are fewer."""
    if count <= wanted:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def _folder(path: str, settings: FrameSettings, *, seconds: float, rate: float) -> Clip:
    names = [p for p in sorted(Path(path).iterdir(), key=_by_number) if p.suffix.lower() in PICTURES]
    if not names:
        raise BadRecord("empty_clip", f"{os.path.basename(path)}/ holds no {', '.join(PICTURES)}")
    length = seconds or len(names) / rate
    check_length(length, settings)
    chosen = [names[i].read_bytes() for i in middles(len(names), settings.num_frames)]
    for data in chosen:
        check_image(data, max_pixels=settings.max_pixels)
    return Clip(jpegs([Image.open(io.BytesIO(data)) for data in chosen], settings, chosen), length)


def _by_number(path: Path) -> tuple[Any, ...]:
    """Frame 10 after frame 9, whatever the zeros before them."""
    digits = "".join(c if c.isdigit() else " " for c in path.stem).split()
    return (int(digits[-1]) if digits else -1, path.name)


def _animation(path: str, settings: FrameSettings) -> Clip:
    try:
        image = Image.open(path)
        if image.width * image.height > settings.max_pixels:
            raise BadRecord("too_many_pixels", f"{image.width} x {image.height} is above {settings.max_pixels}")
        starts, clock = [], 0.0
        for frame in ImageSequence.Iterator(image):
            starts.append(clock)
            clock += (frame.info.get("duration") or 1000 * _FRAME_S) / 1000
            check_length(clock, settings)
        wanted = min(settings.num_frames, len(starts))
        times = [(part + 0.5) * clock / wanted for part in range(wanted)]
        frames = []
        for time in times:
            image.seek(max(i for i, start in enumerate(starts) if start <= time))
            frames.append(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as e:
        raise BadRecord("undecodable", f"{type(e).__name__}: {e}") from e
    return Clip(jpegs(frames, settings), clock)


def sound_of(path: str, *, max_seconds: float) -> bytes:
    """The sound of a clip as 16-bit mono WAV at its own rate; b"" where it has none, or a track without samples.

    Raises:
      BadRecord: a reason of `sound_files.decoded`.
    """
    if os.path.isdir(path) or path.lower().endswith(ANIMATIONS):
        return b""
    with sources.open_binary(path) as file:
        try:
            found = decoded(file, max_seconds=max_seconds, mono=True)
        except BadRecord as bad:
            if bad.reason != "no_samples":
                raise
            found = None
    return b"" if found is None else found.data
