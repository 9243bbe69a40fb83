"""Any sound as PCM WAV: what is that already keeps its bytes, the rest is decoded to 16 bits at its own rate.

Decoded are Ogg, Opus, MP3, FLAC, AAC and whatever else `containers` opens, and WAV that holds no whole numbers or whose
header a streaming writer never completed. Samples of more than 16 bits are rounded, louder than full scale are cut off
there; one that is no number makes the clip unusable. Channels stay as they are, or are averaged if asked.
"""

from __future__ import annotations

import dataclasses
import io
import wave
from typing import Any, BinaryIO

import numpy as np

from beam_jobs.containers import best, opened
from beam_jobs.cut_files import mp3_states_length
from beam_jobs.dead_letters import BadRecord

_LARGEST = 1 << 29
# Above this a WAV's size is one that a streaming writer puts there (0xFFFFFFFF, 0x7FFFF000 and the like).
_STREAMED = (1 << 31) - (1 << 13)
_SHORTFALL_S = 0.1


@dataclasses.dataclass(frozen=True)
class Sound:
    """A PCM WAV and its sample rate."""

    data: bytes
    rate: int


def as_wav(data: bytes, *, max_seconds: float) -> Sound:
    """A sound file's bytes as PCM WAV.

    Raises:
      BadRecord: `empty_file`, `not_sound`, `no_sound`, `bad_rate`, `no_samples`, `cut_short`, `undecodable`,
        `not_finite`, `mixed_formats`, `too_long` or `too_large`.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        stated, there = _riff_samples(data)
        if stated < _STREAMED:
            if there < stated:
                raise BadRecord("cut_short", f"{there} bytes of samples; the header promises {stated}")
            if (rate := _pcm_rate(data, max_seconds=max_seconds)) is not None:
                return Sound(data, rate)
    found = decoded(io.BytesIO(data), max_seconds=max_seconds)
    if found is None:
        raise BadRecord("no_sound", "the file holds no sound track")
    return found


def decoded(file: BinaryIO, *, max_seconds: float, mono: bool = False) -> Sound | None:
    """The sound track of any file, 16-bit; None where there is none.

    Args:
      file: a sound or a film.
      max_seconds: longer ones are refused, decoded no further.
      mono: whether channels are averaged.

    Raises:
      BadRecord: as `as_wav`.
    """
    states_length = mp3_states_length(file)
    with opened(file, kind="sound") as container:
        stream = best(container, "audio")
        if stream is None:
            return None
        out, samples, found = io.BytesIO(), 0, (0, 0)
        for frame in container.decode(stream):
            # Not the header's: high-efficiency AAC decodes to twice the rate that it states.
            shape = (frame.sample_rate, frame.layout.nb_channels)
            found = found if samples else shape
            if shape != found:
                raise BadRecord("mixed_formats", f"begins with (rate, channels) {found}, goes on with {shape}")
            samples += frame.samples
            if samples > max_seconds * frame.sample_rate:
                raise BadRecord("too_long", f"more than max_seconds = {max_seconds}")
            out.write(_whole_numbers(_values(frame), mono=mono).tobytes())
            if out.tell() > _LARGEST:
                raise BadRecord("too_large", f"more than {_LARGEST} bytes of samples")
        told = container.format.name == "flac" or (container.format.name == "mp3" and states_length)
        stated = float((stream.duration or 0) * stream.time_base) if told else 0.0
    if not samples:
        raise BadRecord("no_samples", "not one sample could be decoded")
    rate, channels = found[0], 1 if mono else found[1]
    if samples / rate < stated - _SHORTFALL_S:
        raise BadRecord("cut_short", f"{samples / rate:.2f} s; the header promises {stated:.2f} s")
    return Sound(_wav(out.getvalue(), rate=rate, channels=channels), rate)


def _riff_samples(data: bytes) -> tuple[int, int]:
    """How many bytes of samples a WAV promises and has."""
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"data":
            return size, len(data) - at - 8
        at += 8 + size + size % 2
    return 0, 0


def _pcm_rate(data: bytes, *, max_seconds: float) -> int | None:
    """The sample rate of a WAV that can be kept as it is; None for one that must be decoded."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            rate, frames, width = file.getframerate(), file.getnframes(), file.getsampwidth()
    except (wave.Error, EOFError, RuntimeError):  # the last of a chunk that leads out of the file
        return None
    if rate < 1:
        raise BadRecord("bad_rate", f"sample rate {rate}")
    if width > 4:
        return None
    if frames < 1:
        raise BadRecord("no_samples", "the header promises no samples")
    if frames / rate > max_seconds:
        raise BadRecord("too_long", f"{frames / rate:.1f} s is above max_seconds = {max_seconds}")
    return rate


def _values(frame: Any) -> np.ndarray:
    """Samples [n, channels] of a decoded frame."""
    values = frame.to_ndarray()
    return values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)


def _whole_numbers(values: np.ndarray, *, mono: bool) -> np.ndarray:
    """Samples [n, channels] of any kind as little-endian int16 of the same shape, or [n, 1] if mono."""
    if values.dtype == np.uint8:
        scaled = (values.astype(np.float64) - 128) * 2.0**8
    elif np.issubdtype(values.dtype, np.integer):
        scaled = values * 2.0 ** (16 - 8 * values.dtype.itemsize)
    else:
        if not np.isfinite(values).all():
            raise BadRecord("not_finite", "samples that are no numbers (NaN or infinite)")
        scaled = values.astype(np.float64) * 2.0**15
    if mono:
        scaled = scaled.mean(1, keepdims=True)
    return np.clip(np.rint(scaled), -(2**15), 2**15 - 1).astype("<i2")


def _wav(samples: bytes, *, rate: int, channels: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    return out.getvalue()
