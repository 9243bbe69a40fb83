"""Zarr-v2 arrays, one directory each, as T5X and our own format keep them (spec: MODEL.md section 15).

TensorStore does the work. It takes a missing chunk for the fill value, so a half-copied array would read as zeros:
chunks are counted first.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from uio2.model.checkpoint.stored import Index, Stored, View, whole
from uio2.model.checkpoint.tree import CheckpointError

CHUNK_BYTES = 1 << 26  # a reader of a part, or with several cores, wants less than a whole tensor at once


class ZarrArray(View):
    """The array in the directory `path`.

    Raises:
      CheckpointError: the directory is not a whole array.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            metadata = json.loads((path / ".zarray").read_text())
            shape, chunks = tuple(metadata["shape"]), metadata["chunks"]
            kind = metadata["dtype"]
            self.dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
        except FileNotFoundError as e:
            raise CheckpointError(f"{path} is not a zarr array: it has no .zarray file") from e
        except (ValueError, KeyError, TypeError) as e:
            raise CheckpointError(f"{path}/.zarray is not zarr-v2 metadata ({type(e).__name__}: {e})") from e
        self.shape = shape
        number = math.prod(-(-side // chunk) for side, chunk in zip(shape, chunks, strict=True))
        found = sum(file.is_file() and not file.name.startswith(".") for file in path.iterdir())
        if metadata.get("fill_value") is None and metadata.get("dimension_separator", ".") == "." and found < number:
            raise CheckpointError(f"{path} holds {found} of its {number} chunks; copy the checkpoint again")

    def __getitem__(self, index: Index, /) -> np.ndarray:
        import tensorstore

        try:
            store = tensorstore.open(_spec(self.path), open=True, read=True).result()
            return store[index].read().result()
        except ValueError as e:
            raise CheckpointError(f"{self.path} cannot be read: {e}") from e


def _spec(path: Path) -> dict[str, Any]:
    return {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{path}/"}}


def layout(array: Stored) -> dict[str, Any]:
    """The zarr metadata an array is written with: gzip level 1, chunks of whole rows up to `CHUNK_BYTES`."""
    shape = tuple(array.shape)
    row = math.prod(shape[1:]) * np.dtype(array.dtype).itemsize
    rows = max(1, min(shape[0], CHUNK_BYTES // max(row, 1))) if shape else 1
    return {
        "chunks": [rows, *shape[1:]] if shape else [],
        "compressor": {"id": "gzip", "level": 1},
        "shape": list(shape),
    }


def write(array: Stored, path: Path) -> None:
    """Writes the array into a new directory."""
    import tensorstore

    dtype = np.dtype(array.dtype)
    name = "bfloat16" if dtype == ml_dtypes.bfloat16 else dtype.str
    spec = {**_spec(path), "metadata": {**layout(array), "dtype": name}}
    store = tensorstore.open(spec, create=True, write=True).result()
    store.write(np.asarray(array[whole(array.shape)])).result()
