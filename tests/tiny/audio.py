"""A small audio dataset as `build-audio` publishes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from beam_jobs import dtmf
from tests.tiny import scenes

F = tfds.features
FEATURES = F.FeaturesDict({
    "key": F.Text(), "audio": F.Tensor(shape=(), dtype=np.str_), "sample_rate": np.int64,
    "captions": F.Sequence(F.Text()),
})  # fmt: skip
CLIPS = ("1", "23", "456", "", "7890")


def build(folder: Path, *, seconds: float = 0.0) -> Path:
    """Clips of telephone keys, one of pure silence, each with `seconds` of quiet noise before it."""
    rows = []
    for number, keys in enumerate(CLIPS):
        rng = np.random.default_rng(number)
        sound = dtmf.dial(rng, keys) if keys else np.zeros(8000, np.float32)
        before = rng.normal(0, 0.01, round(seconds * 16_000)).astype(np.float32)
        data = dtmf.wav_bytes(np.concatenate([before, sound]))
        rows.append({"key": f"train/{number}.wav", "audio": data, "sample_rate": 16_000,
                     "captions": [f"a digit {keys}", "the number"]})  # fmt: skip
    return scenes.write(folder, "audio_captions", FEATURES, {"train": rows, "validation": rows[:3]})
