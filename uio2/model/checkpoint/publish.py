"""A directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from uio2.model.checkpoint.tree import CheckpointError


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """A directory beside `path` to write into; renamed to `path` at the end, removed when writing failed.

    Raises:
      CheckpointError: there is something at `path` already.
    """
    path = Path(path).absolute()
    if path.exists():
        raise CheckpointError(f"{path} exists; a checkpoint is written to a new directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
