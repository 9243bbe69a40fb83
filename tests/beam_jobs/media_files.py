"""Films and sounds that tests write with PyAV: reds that count up, and tones."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def tone(seconds: float, *, rate: int, hertz: float = 440.0) -> np.ndarray:
    """float32 [samples] of a sine at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def sound(path: Path, samples: np.ndarray, *, codec: str, rate: int, format: str = "flt") -> Path:
    """Writes samples [n] or [n, 2] with a codec that takes packed samples of this format, in the suffix's container."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        _encode(
            container,
            container.add_stream(codec, rate=rate, layout=_layout(samples)),
            samples,
            rate=rate,
            format=format,
        )
    return path


def film(
    path: Path,
    times: Sequence[float],
    *,
    size: tuple[int, int] = (64, 48),
    codec: str = "mpeg4",
    sound: np.ndarray | None = None,
    rate: int = 16_000,
) -> Path:
    """Writes a frame at each of `times`, seconds; frame n is 10 n red, at most 255, with a green upper left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, bit_rate=4_000_000)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio = None if sound is None else container.add_stream("aac", rate=rate, layout=_layout(sound))
        for number, time in enumerate(times):
            pixels = np.zeros((size[1], size[0], 3), np.uint8)
            pixels[..., 0] = min(10 * number, 255)
            pixels[: size[1] // 2, : size[0] // 2, 1] = 100
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            _encode(container, audio, sound, rate=rate, format="flt")
    return path


def _encode(container, stream, samples: np.ndarray, *, rate: int, format: str) -> None:
    values = samples.reshape(1, -1)
    if format != "flt":
        bits = {"s16": 15, "s32": 31}[format]
        values = np.rint(values.astype(np.float64) * 2**bits).astype(f"int{bits + 1}")
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), format=format, layout=_layout(samples))
    frame.sample_rate, frame.pts = rate, 0
    for part in (frame, None):
        container.mux(stream.encode(part))


def _layout(samples: np.ndarray) -> str:
    return "mono" if samples.ndim == 1 else "stereo"
