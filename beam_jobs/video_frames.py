"""Frames of a video file, evenly spaced in time, decoded with PyAV.

The packets are read through once for when the clip begins and ends, which headers often do not say, and decoded once
for the frames in the middles of equal parts of it: a frame counts for as long as it is shown, so that a variable rate
makes no difference. Everything is decoded, not sought: encoders put seconds between the frames one can begin at, and a
fault anywhere makes the clip unusable. One frame is held at a time; what is to be kept is scaled down at once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from PIL import Image

from beam_jobs import sources
from beam_jobs.containers import best, opened
from beam_jobs.dead_letters import BadRecord
from beam_jobs.frames import FrameSettings, check_length, scaled

# More frames a second, on average, than any camera of the field; and pixels of all frames together, 10 minutes of
# 3840 x 2160 at 60 a second: half an hour of decoding.
_MOST_RATE = 240
_MOST_PIXELS = 600 * 60 * 3840 * 2160
_RATE = 25.0
# Containers that state how long they are; what is missing of that was lost.
_STATED = ("mov", "matroska", "avi", "flv")
_SHORTFALL_S = 0.5
# The same bytes on every processor.
_EXACT = Interpolation.BICUBIC | Interpolation.BITEXACT | Interpolation.ACCURATE_RND
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclasses.dataclass(frozen=True)
class Span:
    """When a clip's first frame begins and its last one ends, in seconds; its frames."""

    start: float
    end: float
    frames: int


def read_video(path: str, settings: FrameSettings) -> tuple[list[Image.Image], float]:
    """Up to `num_frames` frames as RGB no longer than `max_side`, upright, and the clip's length in seconds.

    Raises:
      BadRecord: `empty_file`, `not_a_video`, `no_video_stream`, `cut_short`, `undecodable`, `empty_clip`, `too_long`,
        `too_many_frames`, `too_many_pixels` or `frame_sizes`.
    """
    with sources.open_binary(path) as file:
        with opened(file, kind="video") as container:
            span = _span(container, settings)
        with opened(file, kind="video") as container:
            images = _frames(container, span, settings)
    return images, span.end - span.start


def _span(container: InputContainer, settings: FrameSettings) -> Span:
    stream = _stream(container, settings)
    begins, ends, last, frames = float("inf"), float("-inf"), float("-inf"), 0
    least = 1 / float(stream.average_rate or _RATE)
    for packet in container.demux():
        at = packet.pts if packet.pts is not None else packet.dts
        if not packet.size or at is None or packet.time_base is None:
            continue
        begin = float(at * packet.time_base)
        last = max(last, begin)
        if packet.stream.index != stream.index:
            continue
        frames += 1
        begins, ends = (
            min(begins, begin),
            max(ends, begin + (float((packet.duration or 0) * packet.time_base) or least)),
        )
        check_length(ends - begins, settings)
        if frames > max(1.0, settings.max_seconds) * _MOST_RATE:
            raise BadRecord("too_many_frames", f"more than {_MOST_RATE} a second over max_seconds")
    if not frames:
        raise BadRecord("empty_clip", "the video stream holds no frame")
    if frames * stream.width * stream.height > _MOST_PIXELS:
        raise BadRecord("too_many_pixels", f"{frames} frames of {stream.width} x {stream.height}: too much to decode")
    stated = (container.duration or 0) / 1e6 if container.format.name.split(",")[0] in _STATED else 0.0
    if max(ends, last) - begins < 0.9 * stated - _SHORTFALL_S:
        raise BadRecord("cut_short", f"{max(ends, last) - begins:.2f} s; the container says {stated:.2f} s")
    return Span(begins, ends, frames)


def _stream(container: InputContainer, settings: FrameSettings) -> Any:
    stream = best(container, "video", max_pixels=str(settings.max_pixels))
    if stream is None:
        raise BadRecord("no_video_stream", f"a {container.format.name} file without moving pictures")
    if stream.width * stream.height > settings.max_pixels:
        raise BadRecord("too_many_pixels", f"{stream.width} x {stream.height} is above {settings.max_pixels}")
    return stream


def _frames(container: InputContainer, span: Span, settings: FrameSettings) -> list[Image.Image]:
    """The frames shown in the middles of equal parts; all where there are no more than wanted."""
    wanted = settings.num_frames
    step = (span.end - span.start) / wanted
    middles = [span.start + (part + 0.5) * step for part in range(wanted)]
    shown: VideoFrame | None = None
    size, kept = None, []
    for frame in container.decode(_stream(container, settings)):
        size = size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            raise BadRecord("frame_sizes", f"begins with {size}, goes on with {(frame.width, frame.height)}")
        if frame.is_corrupt:
            raise BadRecord("undecodable", f"the frame at {frame.time} s is damaged")
        if span.frames <= wanted:
            kept.append(_picture(frame, settings))
            continue
        while len(kept) < wanted and frame.time is not None and frame.time > middles[len(kept)]:
            kept.append(_picture(shown or frame, settings))
        shown = frame
    while shown is not None and len(kept) < wanted:
        kept.append(_picture(shown, settings))
    if not kept:
        raise BadRecord("empty_clip", "no frame could be decoded")
    return kept


def _picture(frame: VideoFrame, settings: FrameSettings) -> Image.Image:
    """A frame as RGB, turned as the container says and scaled down."""
    image = frame.to_image(interpolation=_EXACT)
    turn = _TURNS.get(frame.rotation % 360)
    return scaled(image if turn is None else image.transpose(turn), settings)
