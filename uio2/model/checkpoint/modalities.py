"""Which tensors of a published checkpoint belong to which modality (spec: MODEL.md section 1).

A config may leave modalities out. Their tensors are then no surprise in a file that holds the whole model: they are
not read. And the vision transformer that a modality shares with its history lies under whichever of the two the
publishing model had first; it is found in either place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from uio2.model.config import INPUT_MODALITIES, TARGET_MODALITIES, ModelConfig

_SHARED_VIT = re.compile(r"^input_encoders_(image|audio)_history/vit_[a-z]+_encoder/")


def _parts(config: ModelConfig) -> Iterable[tuple[str, bool]]:
    """Path prefixes and whether the config has what is below them."""
    for modality in INPUT_MODALITIES:
        name = f"input_encoders_{modality}" if modality.endswith("_history") else f"input_{modality}_encoder"
        yield f"{name}/", modality in config.input_modalities
    for modality in TARGET_MODALITIES:
        there = modality in config.target_modalities
        yield f"target_encoders_{modality}/", there
        yield f"{modality}_token_embedder/", there or (modality == "text" and "text" in config.input_modalities)


def _usual(path: str) -> str:
    return _SHARED_VIT.sub(r"input_\1_encoder/image_encoder/", path)


def match(expected: Iterable[str], stored: Iterable[str], *, config: ModelConfig) -> dict[str, str]:
    """{T5X path: path in the file} of all that `config` has or the file should not have.

    Equal but for the place of a shared vision transformer and for the tensors of other modalities, which are absent.
    """
    wanted = {_usual(path): path for path in expected}
    exact = set(wanted.values())
    left_out = tuple(prefix for prefix, there in _parts(config) if not there)
    found: dict[str, str] = {}
    for path in sorted(stored, key=lambda path: (path not in exact, path)):
        ours = wanted.get(_usual(path))
        if ours is not None and ours not in found:
            found[ours] = path
        elif not _usual(path).startswith(left_out):
            found[path] = path
    return found
