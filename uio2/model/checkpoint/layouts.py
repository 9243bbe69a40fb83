"""A checkpoint of any of the three layouts, told apart by what its folder holds.

    native       config.json, params/            (`native.py`)
    t5x          checkpoint                      (`t5x.py`)
    huggingface  config.json, model.safetensors, its parts, or pytorch_model.bin   (`huggingface.py`)

A folder with exactly one of these in a folder `model` or `checkpoint_<step>` stands for it: what a training run leaves
can be named as a whole.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from uio2.model.checkpoint import hub, huggingface, native, t5x, t5x_files
from uio2.model.checkpoint.stored import Placement
from uio2.model.checkpoint.tree import CheckpointError
from uio2.model.config import ModelConfig
from uio2.model.unified_io import UnifiedIO2

NATIVE, T5X, HUGGINGFACE = LAYOUTS = ("native", "t5x", "huggingface")
_INSIDE = ("model", "checkpoint_*")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint is and how it is laid out (one of `LAYOUTS`)."""

    folder: Path
    layout: str

    def config(self) -> ModelConfig | None:
        """What the checkpoint says of itself; None for T5X directories, which say nothing."""
        if self.layout == T5X:
            return None
        return (native if self.layout == NATIVE else huggingface).read_config(self.folder)

    def check(self, config: ModelConfig) -> None:
        """Compares names, shapes and kinds of all tensors with a config's; reads no tensor.

        Raises:
          CheckpointError: some do not fit; one error lists them all.
        """
        if self.layout == NATIVE:
            native.fitting(self.folder, config=config)
        elif self.layout == T5X:
            t5x.fitting(t5x_files.read_target(self.folder), config=config)
        else:
            huggingface.fitting(self.folder, config=config)

    def load(
        self, *, config: ModelConfig | None = None, dtype: Any = jnp.float32, sharding: Placement | None = None
    ) -> UnifiedIO2:
        """The model.

        Args:
          config: in place of the checkpoint's own; modalities it leaves out are not read. T5X directories need it.
          dtype: of the parameters in memory; None keeps what each was stored in.
          sharding: our parameter name -> where it goes; each device reads its own part.

        Raises:
          CheckpointError: tensors and config do not agree, or there is no config.
        """
        config = config or self.config()
        if config is None:
            raise CheckpointError(f"{self.folder} is a T5X checkpoint, which holds no config; give the model's")
        loader: Any = {NATIVE: native, T5X: t5x, HUGGINGFACE: huggingface}[self.layout]
        return loader.load(self.folder, config=config, dtype=dtype, sharding=sharding)


def find(path: str | Path) -> Checkpoint:
    """The checkpoint in a folder.

    Raises:
      CheckpointError: there is none, or there are several.
    """
    folder = Path(path)
    layout = _layout(folder)
    if layout:
        return Checkpoint(folder, layout)
    inside = [(p, found) for name in _INSIDE for p in sorted(folder.glob(name)) if (found := _layout(p))]
    if len(inside) > 1:
        raise CheckpointError(f"{folder} holds several checkpoints: name one of {', '.join(p.name for p, _ in inside)}")
    if not inside:
        what = f"holds {sorted(p.name for p in folder.iterdir())[:8]}" if folder.is_dir() else "is no folder"
        raise CheckpointError(
            f"{folder} is not a checkpoint: it {what}; expected {native.CONFIG} and params/ (ours), {t5x_files.INDEX} "
            f"(T5X), or {hub.CONFIG} and {hub.WEIGHTS} (Hugging Face)"
        )
    return Checkpoint(*inside[0])


def save(model: UnifiedIO2, path: str | Path, *, layout: str) -> None:
    """Writes a model in one of `LAYOUTS`; `path` must not exist.

    Raises:
      CheckpointError: something is at `path`.
      ConfigError: the published structure cannot say the model's config (`huggingface`).
    """
    if Path(path).exists():
        raise CheckpointError(f"{path} exists; a checkpoint is written to a new directory")
    writer: Any = {NATIVE: native, T5X: t5x, HUGGINGFACE: huggingface}[layout]
    writer.save(model, path)


def _layout(folder: Path) -> str | None:
    if (folder / native.CONFIG).is_file() and (folder / "params").is_dir():
        return NATIVE
    if (folder / t5x_files.INDEX).is_file():
        return T5X
    if any((folder / name).is_file() for name in (hub.WEIGHTS, hub.PARTS, hub.PICKLED)):
        return HUGGINGFACE
    return None
