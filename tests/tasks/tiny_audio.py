"""A small audio dataset as `build-audio` publishes it, and a task on it that only tests know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tiny_datasets

from beam_jobs import dtmf
from uio2.tasks.audio_task import AudioTask
from uio2.tasks.task import Record, Setting, Texts, clean

F = tfds.features
FEATURES = F.FeaturesDict({
    "key": F.Text(), "audio": F.Tensor(shape=(), dtype=np.str_), "sample_rate": np.int64,
    "captions": F.Sequence(F.Text()),
})  # fmt: skip
CLIPS = ("1", "23", "456", "", "7890")


class AudioCaptioning(AudioTask):
    """Any of a clip's captions."""

    name = "tiny_audio_caption"
    prompts = "image_captioning"
    fields = ("captions",)
    score = "caption"

    def items(self, record: Record) -> tf.Tensor:
        return tf.cast(tf.where(tf.strings.length(clean(record["captions"])) > 0)[:, 0], tf.int32)

    def eval_items(self, record: Record, recipe) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        captions = clean(record["captions"])
        return Texts({}, captions[item], captions, tf.constant(0, tf.int64))


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
    return tiny_datasets.write(folder, "audio_captions", FEATURES, {"train": rows, "validation": rows[:3]})
