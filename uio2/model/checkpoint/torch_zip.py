"""`pytorch_model.bin` read as data: no pickle is run.

The file is an uncompressed zip: `<name>/data.pkl`, a pickle of the state dict, and `<name>/data/<key>`, the bytes of
each storage. A pickle is a program, so it is not executed here: its opcodes are walked, those that build the dicts,
tuples, strings and numbers of a state dict are followed, the few names torch refers to stand for themselves, and
every other opcode or name refuses the file.
"""

from __future__ import annotations

import dataclasses
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from uio2.model.checkpoint.stored import InFile, Stored
from uio2.model.checkpoint.tree import CheckpointError

_STORAGES: dict[str, Any] = {
    "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip
_ORDERED_DICT, _TENSOR, _PARAMETER = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", (
    "torch._utils._rebuild_parameter"
)  # fmt: skip
_NAMES = {_ORDERED_DICT, _TENSOR, _PARAMETER, *(f"torch.{name}" for name in _STORAGES)}
_IGNORED = {"PROTO", "FRAME"}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MAX_PICKLE = 1 << 28
_LOCAL_HEADER = 30


class _Mark:
    """Where a dict or tuple begins on the stack."""


@dataclasses.dataclass(frozen=True)
class _Name:
    text: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path) -> dict[str, Stored]:
    """{name: array} of a state dict.

    Raises:
      CheckpointError: the file is no such zip, or its pickle holds anything but a flat dict of tensors.
    """
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is not a zip; torch before 1.6 wrote bare pickles, which are not read. Load it there and save it "
            "again, best as model.safetensors"
        )
    with zipfile.ZipFile(path) as archive:
        found = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
        if len(found) != 1 or found[0].file_size > _MAX_PICKLE:
            raise CheckpointError(
                f"{path} has {len(found)} entries data.pkl of at most {_MAX_PICKLE:,} bytes; expected 1"
            )
        folder = found[0].filename.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise CheckpointError(f"{path} is big endian; expected little")
        content = _run(path, archive.read(found[0]))
        entries = {info.filename.removeprefix(f"{folder}data/"): info for info in archive.infolist()}
    wrong = [str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, _Tensor))]
    if wrong:
        raise CheckpointError(f"{path} is not a flat dict of tensors: {', '.join(wrong)} are something else")
    return {name: _located(path, name, tensor, entries) for name, tensor in content.items()}


def _located(path: Path, name: str, tensor: _Tensor, entries: dict[str, zipfile.ZipInfo]) -> InFile:
    info = entries.get(tensor.storage.key)
    last = tensor.offset + sum((side - 1) * step for side, step in zip(tensor.shape, tensor.strides, strict=True))
    size = tensor.storage.dtype.itemsize
    if info is None or info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise CheckpointError(f"{path} lacks the uncompressed bytes of {name}")
    empty = 0 in tensor.shape
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or (not empty and (last + 1) * size > info.file_size):
        raise CheckpointError(f"{path}: {name} reaches beyond the {info.file_size} bytes of its storage")
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
    # The central directory does not say how long the local header is; torch pads it to align the data.
    data = info.header_offset + _LOCAL_HEADER + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    if data + info.file_size > path.stat().st_size:
        raise CheckpointError(f"{path} ends before the bytes of {name}; fetch it again")
    return InFile(
        path, offset=data + tensor.offset * size, dtype=tensor.storage.dtype, shape=tensor.shape, strides=tensor.strides
    )


def _run(path: Path, data: bytes) -> dict[Any, Any]:
    try:
        content = _Machine(path).run(data)
    except (ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError) as e:
        if isinstance(e, CheckpointError):
            raise
        raise CheckpointError(f"{path}: data.pkl is no whole state dict ({type(e).__name__}: {e})") from e
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a state dict")
    return content


class _Machine:
    """The stack and memo of a pickle, following what a state dict needs."""

    def __init__(self, path: Path):
        self._path = path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._handlers: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_Mark),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "EMPTY_TUPLE": lambda _: self._stack.append(()),
            "TUPLE": lambda _: self._stack.append(tuple(self._marked())),
            "TUPLE1": lambda _: self._stack.append(tuple(self._popped(1))),
            "TUPLE2": lambda _: self._stack.append(tuple(self._popped(2))),
            "TUPLE3": lambda _: self._stack.append(tuple(self._popped(3))),
            "SETITEM": lambda _: self._update(self._popped(2)),
            "SETITEMS": lambda _: self._update(self._marked()),
            "GLOBAL": lambda name: self._refer(*name.split(" ")),
            "STACK_GLOBAL": lambda _: self._refer(*self._popped(2)),
            "BINPERSID": lambda _: self._stack.append(_storage(self._stack.pop())),
            "REDUCE": lambda _: self._stack.append(self._reduced(*self._popped(2))),
            "BUILD": lambda _: self._build(self._stack.pop()),
            "MEMOIZE": lambda _: self._memo.__setitem__(len(self._memo), self._stack[-1]),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda at: self._memo.__setitem__(at, self._stack[-1])),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda at: self._stack.append(self._memo[at])),
        }

    def run(self, data: bytes) -> Any:
        for opcode, argument, at in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in _IGNORED:
                continue
            if name in _NUMBERS or name in _TEXTS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in self._handlers:
                self._handlers[name](argument)
            else:
                raise self._refusal(f"opcode {name} at byte {at}")
        raise ValueError("it does not end")

    def _refusal(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}: {what} is nothing a dict of tensors needs, so the file is refused; nothing in it was run. "
            "Get it from its publisher, best as model.safetensors"
        )

    def _refer(self, module: str, name: str) -> None:
        if f"{module}.{name}" not in _NAMES:
            raise self._refusal(f"the name {module}.{name}")
        self._stack.append(_Name(f"{module}.{name}"))

    def _reduced(self, what: Any, arguments: Any) -> Any:
        match what, arguments:
            case _Name(text=name), () if name == _ORDERED_DICT:
                return {}
            case _Name(text=name), (
                _Storage() as storage,
                int() as offset,
                tuple() as shape,
                tuple() as strides,
                *_,
            ) if name == _TENSOR:
                return _Tensor(storage, offset, _whole_numbers(shape), _whole_numbers(strides))
            case _Name(text=name), (_Tensor() as tensor, *_) if name == _PARAMETER:
                return tensor
        raise self._refusal(f"a call of {what}")

    def _build(self, state: Any) -> None:
        # A state dict carries `_metadata`, versions of its modules, as an attribute; nothing else is ever set.
        if not (isinstance(self._stack[-1], dict) and isinstance(state, dict) and set(state) <= {"_metadata"}):
            raise self._refusal("setting attributes")

    def _marked(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _Mark:
            at -= 1
        # Falls off the stack's lower end (IndexError) when there is no mark.
        found = self._stack[at + 1 :]
        del self._stack[at:]
        return found

    def _popped(self, number: int) -> list[Any]:
        if len(self._stack) < number:
            raise IndexError("the stack is empty")
        found = self._stack[-number:]
        del self._stack[-number:]
        return found

    def _update(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise TypeError("sets items of what is not a dict")
        self._stack[-1].update(zip(values[::2], values[1::2], strict=True))


def _storage(identity: Any) -> _Storage:
    kind, name, key, _, _ = identity
    if kind != "storage" or not isinstance(name, _Name) or not isinstance(key, str):
        raise TypeError(f"{identity} is no storage")
    return _Storage(key, np.dtype(_STORAGES[name.text.removeprefix("torch.")]))


def _whole_numbers(values: tuple[Any, ...]) -> tuple[int, ...]:
    if not all(type(value) is int for value in values):
        raise TypeError(f"{values} is no shape")
    return values
