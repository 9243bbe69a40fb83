"""Where the reference values lie: beside the repository, and only on some machines."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(
    not (FOLDER / "preprocessing.json").exists(), reason="no reference values beside the repository"
)


@functools.cache
def values() -> dict:
    return json.loads((FOLDER / "preprocessing.json").read_text())


@functools.cache
def arrays() -> dict:
    with np.load(FOLDER / "preprocessing.npz") as stored:
        return {k: stored[k] for k in stored}


def golden_image(index: int, height: int, width: int) -> np.ndarray:
    """The reference images are 8x8 blocks of seeded noise."""
    blocks = np.random.default_rng(index).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return np.repeat(np.repeat(blocks, 8, 0), 8, 1)[:height, :width]


def golden_waveform() -> np.ndarray:
    """Two tones and noise, nine seconds at 16 kHz."""
    t = np.arange(144_000) / 16_000
    noise = 0.05 * np.random.default_rng(7).standard_normal(144_000)
    return (0.3 * np.sin(2 * np.pi * 440 * t) + 0.2 * np.sin(2 * np.pi * (200 + 300 * t) * t) + noise).astype(
        np.float32
    )
