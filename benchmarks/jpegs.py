"""JPEGs for the benchmarks, about as large as photos."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def jpeg(number: int, *, height: int, width: int, quality: int) -> bytes:
    """Noise of several grains, little of it coloured: about as many bytes as a photo."""
    rng = np.random.default_rng(number)
    pixels = np.full((height, width, 3), 128.0)
    for parts, strength in ((4, 60), (16, 40), (64, 25), (160, 14), (480, 9)):
        coarse = rng.normal(size=(max(2, height * parts // 480), max(2, width * parts // 480), 3)).astype(np.float32)
        layers = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        layer = np.stack([np.asarray(c) for c in layers], axis=-1)
        pixels += strength * (0.7 * layer.mean(axis=-1, keepdims=True) + 0.3 * layer)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
