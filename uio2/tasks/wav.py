"""WAV bytes to samples: mono float32 at 16 kHz. numpy only; what `beam_jobs` lets pass (any PCM) is read here.

Other rates go through a polyphase filter. The original's decoder used another filter, so clips of other rates
differ from its by the ripple of the two filters; clips at 16 kHz are the same samples.
"""

from __future__ import annotations

import io
import math
import wave

import numpy as np

SAMPLE_RATE = 16_000
_FULL_SCALE = {1: 2.0**7, 2: 2.0**15, 3: 2.0**23, 4: 2.0**31}


class WavError(ValueError):
    """Bytes that are no usable clip: says what was found."""


def read_wav(data: bytes) -> np.ndarray:
    """float32 [samples] in -1..1 at 16 kHz, channels averaged; a clip without samples gives an empty array.

    Raises:
      WavError: not a WAV file, not PCM of 1 to 4 bytes, or a sample rate of 0.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError, RuntimeError) as error:  # RuntimeError: a chunk that says it is longer than the file
        raise WavError(f"not a WAV file of PCM samples ({error}); it starts with {data[:12]!r}") from error
    if rate < 1 or width not in _FULL_SCALE:
        raise WavError(f"a WAV file at {rate} Hz with {width} bytes per sample; expected 1 Hz or more and 1 to 4 bytes")
    usable = len(raw) // (width * channels) * width * channels
    samples = _integers(raw[:usable], width).astype(np.float64) / _FULL_SCALE[width]
    return _resample(samples.reshape(-1, channels).mean(1), rate).astype(np.float32)


def _integers(raw: bytes, width: int) -> np.ndarray:
    """Signed samples; 8 bits are stored with an offset, 24 bits have no numpy type."""
    if width == 1:
        return np.frombuffer(raw, np.uint8).astype(np.int16) - 128
    if width == 3:
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return padded.view("<i4")[:, 0] >> 8
    return np.frombuffer(raw, f"<i{width}")


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLE_RATE or not len(samples):
        return samples
    from scipy.signal import resample_poly  # 0.3 s to import, and most clips are at 16 kHz already

    common = math.gcd(rate, SAMPLE_RATE)
    return resample_poly(samples, SAMPLE_RATE // common, rate // common)
