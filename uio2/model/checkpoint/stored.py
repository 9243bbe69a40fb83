"""Arrays that stay in their file until somebody asks for a part of them.

A checkpoint is a mapping of names to `Stored`; shapes and dtypes cost nothing, `array[index]` reads. Layout changes
(`Permuted`), the stacking of layers (`Stacked`) and one layer of a stack (`Layer`) are views of the same kind, so
`place` fills every parameter straight from disk, and with a sharding each device reads its own part. Beside the model
itself that needs one parameter in memory: 2.4 GB of xxl's 27 GB, the largest stack.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

# One slice per axis, start and stop given, step 1.
Index = tuple[slice, ...]
Placement = Callable[[str], jax.sharding.Sharding | None]

_READERS = 8  # layers of one stack read at a time; gzip holds a core each


class Stored(Protocol):
    """What NumPy and JAX arrays and the views below have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, index: Index, /) -> Any: ...


def whole(shape: Sequence[int]) -> Index:
    """The index of everything."""
    return tuple(slice(0, side) for side in shape)


class View:
    """Base of the lazy arrays: `numpy.asarray(view)` reads it whole."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, index: Index, /) -> np.ndarray:
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a stored array is read, so it is always a copy")
        return np.asarray(self[whole(self.shape)], dtype)


class InFile(View):
    """An uncompressed array inside a file, `strides` in elements (C order when left out).

    The file is mapped for the time of one read: a mapping that stays would keep the pages of the whole file resident.
    """

    def __init__(
        self, path: Path, *, offset: int, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...] | None = None
    ):
        self.path, self.offset = path, offset
        self.dtype, self.shape = np.dtype(dtype), tuple(shape)
        self.strides = strides

    def __getitem__(self, index: Index, /) -> np.ndarray:
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)[index]
        if self.strides is None:
            mapped: np.ndarray = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        else:
            last = sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
            flat = np.memmap(self.path, self.dtype, "r", self.offset, (last + 1,))
            steps = tuple(stride * self.dtype.itemsize for stride in self.strides)
            mapped = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        return np.array(mapped[index])


class Permuted(View):
    """`base`, with the axes `flipped` reversed, transposed: axis i of the result is axis `axes[i]` of `base`."""

    def __init__(self, base: Stored, *, axes: tuple[int, ...], flipped: tuple[int, ...] = ()):
        self.base, self.axes, self.flipped = base, axes, flipped
        self.dtype, self.shape = np.dtype(base.dtype), tuple(base.shape[axis] for axis in axes)

    def __getitem__(self, index: Index, /) -> np.ndarray:
        inner = [slice(None)] * len(self.axes)
        for part, axis in zip(index, self.axes, strict=True):
            side = self.base.shape[axis]
            inner[axis] = slice(side - part.stop, side - part.start) if axis in self.flipped else part
        return np.flip(np.asarray(self.base[tuple(inner)]), self.flipped).transpose(self.axes)


class Layer(View):
    """Entry `number` of the leading axis of a stack (a NumPy or JAX array)."""

    def __init__(self, base: Any, number: int):
        self.base, self.number = base, number
        self.dtype, self.shape = np.dtype(base.dtype), tuple(base.shape[1:])

    def __getitem__(self, index: Index, /) -> np.ndarray:
        return np.asarray(self.read())[index]

    def read(self) -> Any:
        """The whole layer, of the stack's own kind of array."""
        return self.base[self.number]


class Stacked(View):
    """Equal layers on a new leading axis; a dtype that differs between them becomes the wider one."""

    def __init__(self, layers: Sequence[Stored]):
        self.layers = tuple(layers)
        self.dtype = np.result_type(*(layer.dtype for layer in self.layers))
        self.shape = (len(self.layers), *self.layers[0].shape)

    def __getitem__(self, index: Index, /) -> np.ndarray:
        first, *rest = index
        layers = self.layers[first]
        buffer = np.empty((len(layers), *(part.stop - part.start for part in rest)), self.dtype)

        def fill(number: int) -> None:
            buffer[number] = layers[number][tuple(rest)]

        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(fill, range(len(layers))))
        return buffer


def place(source: Stored, *, dtype: Any = None, sharding: jax.sharding.Sharding | None = None) -> jax.Array:
    """The array on its devices; waits, so that no second one is in memory beside it.

    Args:
      dtype: what to cast to; None keeps the stored one.
      sharding: where it goes; each device reads its part, equal parts are read once. None: the default device.
    """
    target = jax.dtypes.canonicalize_dtype(source.dtype if dtype is None else dtype)
    if isinstance(source, jax.Array):
        moved = source if sharding is None else jax.device_put(source, sharding)
        return moved.astype(target)

    def read(index: Index) -> np.ndarray:
        return np.asarray(source[index]).astype(target, copy=False)

    if sharding is None:
        return jax.block_until_ready(jax.device_put(read(whole(source.shape))))
    parts: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

    def part(index: Any) -> np.ndarray:
        bounds = tuple(where.indices(side)[:2] for where, side in zip(index, source.shape, strict=True))
        if bounds not in parts:
            parts[bounds] = read(tuple(slice(*pair) for pair in bounds))
        return parts[bounds]

    return jax.block_until_ready(jax.make_array_from_callback(tuple(source.shape), sharding, part))
