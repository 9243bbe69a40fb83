"""A few frames of a clip, evenly spaced, as JPEG of one size: from a folder of pictures, an animation, or a video file.

Animations (GIF, WebP, AVIF, APNG) are read with Pillow. Video containers need `ffmpeg` and `ffprobe` on PATH: no
package of the lock decodes them. Without those programs a build that meets such a file ends with an error that says so.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence, UnidentifiedImageError

from beam_jobs.dead_letters import BadRecord
from beam_jobs.images import check_image
from uio2.pipeline.stage import StageError

PICTURES = (".jpg", ".jpeg", ".png")
ANIMATIONS = (".gif", ".webp", ".avif", ".apng")
VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".3gp")
# An animation's frame without a duration; what browsers take.
_FRAME_S = 0.1
_PROGRAM_S = 300
_LOCAL = ("-protocol_whitelist", "file")
# What an MPEG-4 or QuickTime file may begin with.
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_SOUND_RATE = 16_000


@dataclasses.dataclass(frozen=True)
class FrameSettings:
    """Fields of `VideoSpec` by the same names."""

    num_frames: int
    max_side: int
    frame_rate: float
    jpeg_quality: int
    max_seconds: float
    max_pixels: int


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
      BadRecord: `empty_clip`, `unsupported_format`, `undecodable`, `too_long`, `frame_sizes`, or a reason of
        `check_image`.
      StageError: a video file, and no ffmpeg to decode it.
    """
    if os.path.isdir(path):
        clip = _folder(path, settings, seconds=seconds, rate=rate or settings.frame_rate)
    elif path.lower().endswith(ANIMATIONS):
        clip = _animation(path, settings)
    elif path.lower().endswith(VIDEOS):
        clip = _video(path, settings)
    else:
        raise BadRecord(
            "unsupported_format", f"{os.path.basename(path)}; expected a folder, {', '.join(ANIMATIONS + VIDEOS)}"
        )
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
    _check_length(length, settings)
    chosen = [names[i].read_bytes() for i in middles(len(names), settings.num_frames)]
    for data in chosen:
        check_image(data, max_pixels=settings.max_pixels)
    return Clip(_jpegs([Image.open(io.BytesIO(data)) for data in chosen], settings, chosen), length)


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
            _check_length(clock, settings)
        wanted = min(settings.num_frames, len(starts))
        times = [(part + 0.5) * clock / wanted for part in range(wanted)]
        frames = []
        for time in times:
            image.seek(max(i for i, start in enumerate(starts) if start <= time))
            frames.append(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as e:
        raise BadRecord("undecodable", f"{type(e).__name__}: {e}") from e
    return Clip(_jpegs(frames, settings), clock)


def _check_length(seconds: float, settings: FrameSettings) -> None:
    if seconds > settings.max_seconds:
        raise BadRecord("too_long", f"{seconds:.1f} s is above max_seconds = {settings.max_seconds}")


def _jpegs(images: Sequence[Image.Image], settings: FrameSettings, original: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """The images as JPEG, scaled down to `max_side`; the original bytes of one that is fit already."""
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise BadRecord("frame_sizes", f"frames of {len(sizes)} sizes: {sorted(sizes)[:3]}")
    (size,) = sizes
    scale = min(1.0, settings.max_side / max(size))
    target = (max(1, round(scale * size[0])), max(1, round(scale * size[1])))
    found = []
    for number, image in enumerate(images):
        if original and image.format == "JPEG" and target == size:
            found.append(original[number])
            continue
        scaled = image.convert("RGB")
        if target != size:
            scaled = scaled.resize(target, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        scaled.save(buffer, "JPEG", quality=settings.jpeg_quality)
        found.append(buffer.getvalue())
    return tuple(found)


def needs_ffmpeg(path: str) -> bool:
    """Whether a clip can only be read with ffmpeg."""
    return path.lower().endswith(VIDEOS)


def _video(path: str, settings: FrameSettings) -> Clip:
    _check_container(path)
    told = _program("ffprobe", "-v", "error", *_LOCAL, "-show_entries", "format=duration", "-of", "json", path)
    try:
        seconds = float(json.loads(told)["format"]["duration"])
    except (ValueError, KeyError, TypeError) as e:
        raise BadRecord("undecodable", f"ffprobe finds no duration ({told[:80]!r})") from e
    _check_length(seconds, settings)
    frames = []
    for part in range(settings.num_frames):
        time = f"{(part + 0.5) * seconds / settings.num_frames:.3f}"
        data = _program(
            "ffmpeg",
            "-v",
            "error",
            *_LOCAL,
            "-ss",
            time,
            "-i",
            path,
            "-frames:v",
            "1",
            "-f",
            "image2pipe",
            "-c:v",
            "png",
            "-",
        )
        if data:
            check_image(data, max_pixels=settings.max_pixels)
            frames.append(Image.open(io.BytesIO(data)))
    if not frames:
        raise BadRecord("empty_clip", "no frame could be decoded")
    return Clip(_jpegs(frames, settings), seconds)


def _check_container(path: str) -> None:
    """Refuses what is no video under its name; playlists too, which would lead ffmpeg to other files."""
    with open(path, "rb") as file:
        head = file.read(12)
    known = head.startswith((b"\x1aE\xdf\xa3", b"FLV", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"))
    if not known and head[4:8] not in _BOXES and (head[:4], head[8:]) != (b"RIFF", b"AVI "):
        raise BadRecord("not_a_video", f"starts with {head!r}")


def sound_of(path: str) -> bytes:
    """The sound of a video file as 16 kHz mono WAV; b"" where it has none."""
    kinds = _program(
        "ffprobe",
        "-v",
        "error",
        *_LOCAL,
        "-select_streams",
        "a",
        "-show_entries",
        "stream=index",
        "-of",
        "csv=p=0",
        path,
    )
    if not kinds.strip():
        return b""
    # A pipe cannot be wound back, and ffmpeg writes the true sizes into the header at the end.
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "sound.wav")
        rate = str(_SOUND_RATE)
        _program(
            "ffmpeg", "-v", "error", *_LOCAL, "-i", path, "-vn", "-ac", "1", "-ar", rate, "-bitexact", "-f", "wav", out
        )
        return Path(out).read_bytes()


def _program(name: str, *arguments: str) -> bytes:
    found = shutil.which(name)
    if found is None:
        file = next((a for a in arguments if a.lower().endswith(VIDEOS)), "a clip")
        raise StageError(
            f"{os.path.basename(file)}: {name} is not on PATH and nothing else here decodes video files; install "
            f"ffmpeg, or give the clips as folders of frames or as {', '.join(ANIMATIONS)}"
        )
    try:
        done = subprocess.run([found, *arguments], capture_output=True, timeout=_PROGRAM_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as e:
        raise BadRecord("undecodable", f"{name} did not finish in {_PROGRAM_S} s") from e
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise BadRecord("undecodable", f"{name}: {lines[-1] if lines else f'exit status {done.returncode}'}")
    return done.stdout
