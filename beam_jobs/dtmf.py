"""Telephone key tones (DTMF, ITU-T Q.23) as WAV bytes: each key is the sum of a row and a column tone.

Real signals by a real standard, made in numpy: 16 kHz mono 16-bit PCM, tones of 80 to 140 ms with gaps of 50 to
100 ms, the two tones at equal level, faint noise behind.
"""

from __future__ import annotations

import io
import wave

import numpy as np

SAMPLE_RATE = 16_000
ROWS = (697.0, 770.0, 852.0, 941.0)
COLUMNS = (1209.0, 1336.0, 1477.0)
KEYS = ("123", "456", "789", "*0#")
FREQUENCIES = {key: (ROWS[r], COLUMNS[c]) for r, row in enumerate(KEYS) for c, key in enumerate(row)}
SPOKEN = {"*": "star", "#": "hash"}


def dial(rng: np.random.Generator, keys: str) -> np.ndarray:
    """The sound of dialling `keys`: float32 [samples] in -1..1."""
    parts = [np.zeros(_samples(rng, 0.05, 0.15))]
    for key in keys:
        row, column = FREQUENCIES[key]
        t = np.arange(_samples(rng, 0.08, 0.14)) / SAMPLE_RATE
        parts.append(0.3 * np.sin(2 * np.pi * row * t) + 0.3 * np.sin(2 * np.pi * column * t))
        parts.append(np.zeros(_samples(rng, 0.05, 0.10)))
    sound = np.concatenate(parts)
    return (sound + rng.normal(0, 0.003, len(sound))).astype(np.float32)


def wav_bytes(sound: np.ndarray) -> bytes:
    """A RIFF file of 16-bit PCM."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def captions(keys: str) -> list[str]:
    """Three captions that spell the keys out."""
    spoken = [SPOKEN.get(key, key) for key in keys]
    return [
        f"a telephone dials {' '.join(spoken)}",
        f"touch tones for the keys {', '.join(spoken[:-1])} and {spoken[-1]}",
        f"{len(keys)} keys are pressed on a phone: {' '.join(spoken)}",
    ]


def random_keys(rng: np.random.Generator) -> str:
    """Two to six keys."""
    alphabet = list(FREQUENCIES)
    return "".join(alphabet[int(i)] for i in rng.integers(0, len(alphabet), int(rng.integers(2, 7))))


def _samples(rng: np.random.Generator, low: float, high: float) -> int:
    return int(rng.uniform(low, high) * SAMPLE_RATE)
