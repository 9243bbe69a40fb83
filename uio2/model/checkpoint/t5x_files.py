"""The directory T5X writes: a msgpack index and one zarr array per large leaf (spec: MODEL.md section 15).

```
checkpoint_<step>/
  checkpoint        {version: 3, optimizer: {target: ..., state: {step, param_states: <path>: {m, v, v_row, v_col}}}}
  target.decoder.decoder_norm.scale/                  .zarray and chunks
  state.param_states.decoder.decoder_norm.scale.m/    the same
```

A leaf of the index is either the array itself or a description of its directory. Which ones were written inline is
up to the writer, so both are taken anywhere. The index is read whole: inline leaves are meant to be small.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from flax import serialization

from uio2.model.checkpoint import zarr_files
from uio2.model.checkpoint.publish import new_directory
from uio2.model.checkpoint.stored import Stored
from uio2.model.checkpoint.tree import CheckpointError

INDEX = "checkpoint"
VERSION = 3
# Parameters have logical axes and so directories of their own; of the optimizer's arrays only those shaped like their
# parameter do.
_INLINE_SLOTS = ("v_row", "v_col")


@dataclasses.dataclass(frozen=True)
class OptimizerState:
    """What the original's Adafactor keeps.

    Attributes:
      step: updates made.
      arrays: {"decoder/decoder_norm/scale/m": array, ...}; slots are `m`, `v`, `v_row`, `v_col`, of shape (1,) where a
        parameter does not use them. `numpy.asarray` reads one.
    """

    step: int
    arrays: Mapping[str, Stored]


def read_target(path: str | Path) -> dict[str, Stored]:
    """{T5X path: array} of the parameters; nothing but the index is read yet.

    Raises:
      CheckpointError: this is no T5X checkpoint, or files of it are missing; all are listed.
    """
    optimizer, folder = _index(path)
    if not isinstance(optimizer.get("target"), Mapping):
        raise CheckpointError(f"{folder}/{INDEX} has no 'target'; it has {sorted(optimizer)}")
    return _leaves(optimizer["target"], folder=folder)


def read_optimizer_state(path: str | Path) -> OptimizerState:
    """The optimizer's state.

    Raises:
      CheckpointError: as `read_target`, or the checkpoint holds parameters only.
    """
    optimizer, folder = _index(path)
    state = optimizer.get("state")
    if not isinstance(state, Mapping) or "step" not in state:
        raise CheckpointError(f"{folder} holds parameters only; a checkpoint of a training run has an optimizer state")
    step = int(np.asarray(_leaves({"step": state["step"]}, folder=folder)["step"]))
    return OptimizerState(step, _leaves(state.get("param_states", {}), folder=folder))


def write(path: str | Path, target: Mapping[str, Stored], *, optimizer_state: OptimizerState | None = None) -> None:
    """Writes a checkpoint directory, tensor by tensor; `path` must not exist."""
    with new_directory(path) as folder:
        optimizer: dict[str, Any] = {"target": _written(target, "target", folder)}
        if optimizer_state is not None:
            states = _written(optimizer_state.arrays, "state.param_states", folder)
            optimizer["state"] = {"step": np.asarray(optimizer_state.step, np.int32), "param_states": states}
        content = {"version": VERSION, "optimizer": optimizer}
        (folder / INDEX).write_bytes(serialization.msgpack_serialize(content))


def _index(path: str | Path) -> tuple[Mapping[str, Any], Path]:
    folder = Path(path)
    if not (folder / INDEX).is_file():
        inside = sorted(p.parent.name for p in folder.glob(f"checkpoint_*/{INDEX}"))
        hint = f"; it holds {', '.join(inside)}: name one of them" if inside else ""
        raise CheckpointError(f"{folder} is not a T5X checkpoint: it has no file {INDEX!r}{hint}")
    try:
        content = serialization.msgpack_restore((folder / INDEX).read_bytes())
    except Exception as e:  # msgpack's errors have no common base; the file is at fault in each
        raise CheckpointError(f"{folder / INDEX} is not msgpack ({type(e).__name__}: {e})") from e
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{folder / INDEX} holds a {type(content).__name__}, not a tree")
    return content.get("optimizer", content), folder


def _leaves(tree: Mapping[str, Any], *, folder: Path) -> dict[str, Stored]:
    leaves: dict[str, Stored] = {}
    wrong: list[str] = []

    def walk(node: Any, name: str) -> None:
        if isinstance(node, Mapping) and not {"driver", "kvstore"} <= set(node):
            for key, child in node.items():
                walk(child, f"{name}/{key}" if name else str(key))
            return
        try:
            leaves[name] = _leaf(node, folder)
        except CheckpointError as e:
            wrong.append(f"{name}: {e}")

    walk(tree, "")
    if wrong:
        raise CheckpointError(f"{len(wrong)} tensors of {folder} cannot be read:\n  " + "\n  ".join(wrong))
    return dict(sorted(leaves.items()))


def _leaf(node: Any, folder: Path) -> Stored:
    if isinstance(node, np.ndarray | np.generic | int | float):
        return np.asarray(node)
    if not isinstance(node, Mapping):
        raise CheckpointError(f"expected an array or the description of one, found {type(node).__name__}")
    if node["driver"] != "zarr":
        raise CheckpointError(f"expected a zarr array, found {node['driver']!r}")
    # The description may name the place it was written to; the array lies beside the index wherever that is now.
    name = PurePosixPath(str(node["kvstore"].get("path", ""))).name
    if name in ("", "..", "."):
        raise CheckpointError(f"the description names no directory: {node['kvstore']}")
    return zarr_files.ZarrArray(folder / name)


def _written(arrays: Mapping[str, Stored], prefix: str, folder: Path) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, last = path.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        if prefix != "target" and (last in _INLINE_SLOTS or tuple(array.shape) == (1,)):
            node[last] = np.asarray(array)
            continue
        name = f"{prefix}.{path.replace('/', '.')}"
        zarr_files.write(array, folder / name)
        node[last] = {
            "driver": "zarr",
            "dtype": np.dtype(array.dtype).name,
            "kvstore": {"driver": "file", "path": f"{name}/"},
            "metadata": zarr_files.layout(array),
        }
    return root
