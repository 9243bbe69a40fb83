"""A batch as the recipe shapes it, at its fullest: every place of it is real, so nothing is left out of the step."""

from __future__ import annotations

import numpy as np

from uio2.tasks.shapes import media_features, text_features
from uio2.tasks.specs import RegisterSpec


def fullest(recipe: RegisterSpec, *, rows: int) -> dict[str, np.ndarray]:
    """Arrays of the true shapes and dtypes, masks all 1, the rest 0 (and not yet in memory)."""
    found: dict[str, np.ndarray] = {}
    for key, feature in (text_features(recipe) | media_features(recipe)).items():
        make = np.ones if key.endswith("mask") else np.zeros
        found[key] = make((rows, *feature.shape), feature.dtype)
    return found


def tokens(recipe: RegisterSpec, *, rows: int, latents: dict[str, int]) -> tuple[int, int]:
    """(encoder, decoder) tokens of a batch, padding included; `latents` are tokens of a frame of each history."""
    inputs = targets = 0
    for key, feature in (text_features(recipe) | media_features(recipe)).items():
        side, kind, name = key.split("/")
        if name != "mask":
            continue
        each = feature.shape[0] * latents.get(kind, 1)
        inputs, targets = (inputs + each, targets) if side == "inputs" else (inputs, targets + each)
    return rows * inputs, rows * targets
