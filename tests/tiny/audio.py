"""Small datasets of sound as `build-audio`, `build-audio-tags` and `build-speech` publish them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from beam_jobs import dtmf
from tests.tiny import scenes

F = tfds.features
_SOUND = {"key": F.Text(), "audio": F.Tensor(shape=(), dtype=np.str_), "sample_rate": np.int64}
FEATURES = F.FeaturesDict({**_SOUND, "captions": F.Sequence(F.Text())})
TAGS = F.FeaturesDict({**_SOUND, "labels": F.Sequence(F.Text())})
SPEECH = F.FeaturesDict({**_SOUND, "transcript": F.Text(), "speaker": F.Text()})
CLIPS = ("1", "23", "456", "", "7890")


def clip(keys: str, *, number: int, seconds: float = 0.0) -> dict[str, Any]:
    """A dialled number, or half a second of pure silence for none, after `seconds` of quiet noise."""
    rng = np.random.default_rng(number)
    sound = dtmf.dial(rng, keys) if keys else np.zeros(8000, np.float32)
    before = rng.normal(0, 0.01, round(seconds * dtmf.SAMPLE_RATE)).astype(np.float32)
    data = dtmf.wav_bytes(np.concatenate([before, sound]))
    return {"key": f"train/{number}.wav", "audio": data, "sample_rate": dtmf.SAMPLE_RATE}


def build(folder: Path, *, seconds: float = 0.0) -> Path:
    """Clips of telephone keys, one of pure silence, each with `seconds` of quiet noise before it."""
    rows = [
        {**clip(keys, number=number, seconds=seconds), "captions": [f"a digit {keys}", "the number"]}
        for number, keys in enumerate(CLIPS)
    ]
    return scenes.write(folder, "audio_captions", FEATURES, {"train": rows, "validation": rows[:3]})


def build_tags(folder: Path) -> Path:
    """The same clips with labels: one repeats its label, the last has none that say anything."""
    labels = (["telephone", "tone"], ["Tone", "  Speech\n", "Tone"], ["a, b", "c"], ["Silence"], ["", " "])
    rows = [
        {**clip(keys, number=number), "labels": list(names)}
        for number, (keys, names) in enumerate(zip(CLIPS, labels, strict=True))
    ]
    return scenes.write(folder, "audio_tags", TAGS, {"train": rows, "validation": rows})


def build_speech(folder: Path) -> Path:
    """Keys that are spelled out as if spoken: one recording is longer than a segment, one silent, one not written."""
    transcripts = ("One.", "two  three", "four five six", "nothing", "\t")
    rows = [
        {**clip(keys, number=number, seconds=4.0 * (number == 1)), "transcript": text, "speaker": f"s{number % 2}"}
        for number, (keys, text) in enumerate(zip(CLIPS, transcripts, strict=True))
    ]
    return scenes.write(folder, "speech", SPEECH, {"train": rows, "validation": rows})
