"""A small video dataset as `build-video` publishes it: a bright square that moves to the right, keys being dialled."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tests.tiny import audio, scenes

F = tfds.features
FEATURES = F.FeaturesDict({
    "key": F.Text(), "frames": F.Sequence(F.Tensor(shape=(), dtype=np.str_)), "seconds": np.float32,
    "audio": F.Tensor(shape=(), dtype=np.str_), "captions": F.Sequence(F.Text()), "labels": F.Sequence(F.Text()),
    "qa": F.Sequence({"question": F.Text(), "answers": F.Sequence(F.Text())}),
})  # fmt: skip
SIZE = (32, 48)


def frame(place: float, level: int = 255) -> bytes:
    """A JPEG of a square whose left side lies at `place` in 0..1 of the width."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    left = round(place * (SIZE[1] - 8))
    pixels[12:20, left : left + 8] = level
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def row(number: int, *, frames: int, keys: str | None, captions: list[str], labels: list[str],
        qa: list[tuple[str, list[str]]], level: int = 255) -> dict[str, Any]:  # fmt: skip
    """A record; `keys` None is a clip without sound, "" one of pure silence."""
    return {
        "key": f"clip{number}", "frames": [frame(n / max(frames - 1, 1), level) for n in range(frames)],
        "seconds": frames / 2, "audio": b"" if keys is None else audio.clip(keys, number=number, seconds=6.0)["audio"],
        "captions": captions, "labels": labels, "qa": [{"question": q, "answers": a} for q, a in qa],
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """Plain; without sound and with fewer frames than asked for; one frame; nothing to say; no frame."""
    moves = [("What moves?", ["square", "a square"]), (" ", ["nobody asked"]), ("Who dials?", []), ("Where to?", [""])]
    return [
        row(0, frames=9, keys="23", captions=["a square moves", "", "it goes right"], labels=["moving", " "], qa=moves),
        row(1, frames=2, keys=None, captions=["two pictures"], labels=["jumping"], qa=[("How many?", ["2"])]),
        row(2, frames=1, keys="1", captions=[], labels=["standing", "waiting"], qa=[]),
        row(3, frames=4, keys=None, captions=[" "], labels=[], qa=[("", [""])]),
        row(4, frames=0, keys="1", captions=["unseen"], labels=["hiding"], qa=[("Where?", ["here"])]),
    ]


def build(folder: Path) -> Path:
    """All rows in both splits."""
    return scenes.write(folder, "video_captions", FEATURES, {"train": rows(), "validation": rows()})
