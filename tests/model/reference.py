"""The golden model: parameters by formula over the path, seeded inputs, stored outputs (golden/README.md)."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uio2.model import ModelConfig, UnifiedIO2
from uio2.model.checkpoint import t5x

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
SPEC = GOLDEN.parent / "spec"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="reference numbers are not beside the checkout")


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32, a function of the name."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)


def parameter(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The golden model's value at a T5X path."""
    normal, last = seeded(path, shape), path.rsplit("/", 1)[-1]
    match last:
        case "scale":
            return np.float32(1) + np.float32(0.1) * normal
        case "bias":
            return np.float32(0.1) * normal
        case "kernel":
            return normal / np.float32(np.sqrt(np.prod(shape[:-1])))
        case "embedding":
            return normal
    return np.float32(0.2) * normal


def parameters(config: ModelConfig) -> dict[str, np.ndarray]:
    """The whole golden tree under T5X names."""
    return {path: parameter(path, shape) for path, shape in t5x.expected_shapes(config).items()}


@dataclasses.dataclass(frozen=True)
class Case:
    """One stored forward case: the model with golden parameters, its batch and what the reference computed."""

    model: UnifiedIO2
    batch: dict[str, np.ndarray]
    figures: dict[str, Any]
    arrays: dict[str, np.ndarray]


def load_case(name: str) -> Case:
    """Cases with text and image input and text output."""
    figures = json.loads((GOLDEN / f"forward_{name}.json").read_text())
    with np.load(GOLDEN / f"forward_{name}.npz") as stored:
        arrays = dict(stored)
    config = ModelConfig.from_reference(json.loads((GOLDEN / "config.json").read_text()))
    config = dataclasses.replace(
        config,
        input_modalities=tuple(figures["input_modalities"]),
        target_modalities=tuple(figures["target_modalities"]),
    )
    batch = {key.removeprefix("batch/"): value for key, value in arrays.items() if key.startswith("batch/")}
    if "image" in config.input_modalities:
        key = "inputs/image/input"
        batch[key] = seeded(f"{name}/{key}", (*batch["inputs/image/mask"].shape, config.patch_dim))
    return Case(t5x.from_tree(parameters(config), config=config), batch, figures, arrays)
