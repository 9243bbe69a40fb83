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


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 in [-1, 1), a function of the name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return (generator.random(shape, dtype=np.float32) * 2 - 1).astype(np.float32)


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
        case "logit_scale":
            return np.float32(np.log(10)) + np.float32(0.1) * normal
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


def config_of(figures: dict[str, Any], **changes: Any) -> ModelConfig:
    """The golden model's config with the modalities of a stored case."""
    return dataclasses.replace(
        golden_config(),
        input_modalities=tuple(figures["input_modalities"]),
        target_modalities=tuple(figures["target_modalities"]),
        **changes,
    )


def golden_config() -> ModelConfig:
    return ModelConfig.from_reference(json.loads((GOLDEN / "config.json").read_text()))


def golden_model(config: ModelConfig) -> UnifiedIO2:
    return t5x.from_tree(parameters(config), config=config)


def case_batch(name: str, *, figures: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The stored integers and the seeded floats of a case; absent items are zero."""
    batch = {key.removeprefix("batch/"): value for key, value in arrays.items() if key.startswith("batch/")}
    for key, stats in figures["batch_stats"].items():
        if key in batch:
            continue
        prefix, shape = key.rsplit("/", 1)[0], tuple(stats["shape"])
        values = uniform(f"{name}/{key}", shape) if key == "targets/image/image" else seeded(f"{name}/{key}", shape)
        present = batch[f"{prefix}/mask"].any(-1)
        batch[key] = values * present.reshape(*present.shape, *[1] * (len(shape) - present.ndim)).astype(np.float32)
        assert float(batch[key].sum(dtype=np.float64)) == pytest.approx(stats["sum"], rel=1e-6, abs=1e-3), key
    return batch


def load_case(name: str) -> Case:
    """Any stored forward case, all its modalities."""
    figures = json.loads((GOLDEN / f"forward_{name}.json").read_text())
    with np.load(GOLDEN / f"forward_{name}.npz") as stored:
        arrays = dict(stored)
    batch = case_batch(name, figures=figures, arrays=arrays)
    return Case(golden_model(config_of(figures)), batch, figures, arrays)


def stored_codes(case: Case) -> dict[str, np.ndarray]:
    """The codes the original found, as a batch may bring them."""
    targets = {kind: case.arrays.get(f"{kind}/targets") for kind in ("image", "audio")}
    return {f"targets/{kind}/codes": value - 2 for kind, value in targets.items() if value is not None}
