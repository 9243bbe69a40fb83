"""The safetensors format: a JSON header with dtype, shape and place of each tensor, then the bytes.

Eight bytes of header length, the header, the data; C order, little endian. Reading parses the header and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from uio2.model.checkpoint.stored import InFile, Stored, whole
from uio2.model.checkpoint.tree import CheckpointError

_DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100 << 20
_METADATA = "__metadata__"


def read(path: Path) -> dict[str, Stored]:
    """{name: array} of a file.

    Raises:
      CheckpointError: the file is not whole, or not of this format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _MAX_HEADER):
            raise CheckpointError(f"{path} is not a safetensors file: its header would be {length:,} bytes long")
        try:
            header = json.loads(file.read(length))
            return {
                name: _tensor(path, entry, start=8 + length, size=size)
                for name, entry in header.items()
                if name != _METADATA
            }
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            if isinstance(e, CheckpointError):
                raise
            raise CheckpointError(f"{path} has no safetensors header ({type(e).__name__}: {e})") from e


def _tensor(path: Path, entry: Mapping[str, Any], *, start: int, size: int) -> InFile:
    if entry["dtype"] not in _DTYPES:
        raise CheckpointError(f"{path} holds the dtype {entry['dtype']!r}; expected one of {', '.join(_DTYPES)}")
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(int(side) for side in entry["shape"])
    first, last = entry["data_offsets"]
    if min((0, *shape)) < 0 or first < 0 or last - first != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{path} contradicts itself about a tensor of shape {shape}: bytes {first} to {last}")
    if start + last > size:
        raise CheckpointError(f"{path} ends at byte {size:,}, its tensors at {start + last:,}; fetch it again")
    return InFile(path, offset=start + first, dtype=dtype, shape=shape)


def write(arrays: Mapping[str, Stored], path: Path) -> None:
    """Writes one file, tensor by tensor, in the order the format's own library has: wide dtypes first, then names."""
    names = sorted(arrays, key=lambda name: (-np.dtype(arrays[name].dtype).itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        dtype, shape = np.dtype(arrays[name].dtype), tuple(arrays[name].shape)
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = np.ascontiguousarray(arrays[name][whole(arrays[name].shape)])
            file.write(array.reshape(-1).view(np.uint8))
