"""Our own layout: `config.json` beside an orbax directory with one zarr array per parameter.

Arrays are stored under our parameter names, in the dtype they have, layers stacked. OCDBT is off: its files carry
random names, and equal parameters must give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from uio2.model.checkpoint import tree
from uio2.model.checkpoint.stored import Placement, Stored
from uio2.model.checkpoint.zarr_files import ZarrArray
from uio2.model.config import ModelConfig
from uio2.model.unified_io import UnifiedIO2

CONFIG = "config.json"
# Orbax writes the time into these.
VOLATILE = ("_CHECKPOINT_METADATA", "commit_success.txt")


def save_arrays(flat: dict[str, Any], path: Path) -> None:
    """Writes {name: array} with '/' in the names as nesting; `path` must not exist.

    Of several processes one alone calls it, with arrays on the host.
    """
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="native"
    ) if jax.process_count() > 1 else ocp.options.MultiprocessingOptions()  # fmt: skip
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(nest(flat)))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The inverse of `save_arrays`; raises `CheckpointError` when there is nothing to read."""
    if not (path / "_METADATA").is_file():
        raise tree.CheckpointError(f"{path} is not a checkpoint: it has no _METADATA file")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        return _flatten(checkpointer.restore(path.absolute(), args=ocp.args.PyTreeRestore(
            restore_args=ocp.checkpoint_utils.construct_restore_args(
                checkpointer.metadata(path.absolute()).item_metadata.tree, None)
        )))  # fmt: skip


def save(model: UnifiedIO2, path: str | Path) -> None:
    """Writes the model; `path` is a new directory."""
    save_flat({name: np.asarray(array) for name, array in tree.flatten(model).items()}, path, config=model.config)


def save_flat(flat: dict[str, np.ndarray], path: str | Path, *, config: ModelConfig) -> None:
    """Writes a model whose parameters are on the host, by our names; `path` is a new directory."""
    path = Path(path)
    path.mkdir(parents=True)
    save_arrays(flat, path / "params")
    (path / CONFIG).write_text(config.to_json() + "\n")


def load(
    path: str | Path, *, config: ModelConfig | None = None, dtype: Any = None, sharding: Placement | None = None
) -> UnifiedIO2:
    """Reads what `save` wrote.

    Args:
      path: the directory.
      config: in place of the directory's own; modalities it leaves out are not read.
      dtype: of the parameters in memory; None keeps what each was stored in.
      sharding: parameter name -> where it goes; each device reads its own part.

    Raises:
      CheckpointError: tensors and config do not agree.
    """
    path = Path(path)
    if config is None:
        return tree.build(_stored(path / "params"), config=read_config(path), dtype=dtype, sharding=sharding)
    return tree.build(fitting(path, config=config), config=config, dtype=dtype, sharding=sharding)


def read_config(path: Path) -> ModelConfig:
    """The directory's own config.

    Raises:
      CheckpointError: it has none.
    """
    if not (path / CONFIG).is_file():
        raise tree.CheckpointError(f"{path} is not a model checkpoint: it has no {CONFIG}")
    return ModelConfig.from_json((path / CONFIG).read_text())


def fitting(path: Path, *, config: ModelConfig) -> dict[str, Stored]:
    """The arrays that a model of `config` has, unread.

    Raises:
      CheckpointError: some are missing, misshapen, or no part of the directory's own config.
    """
    stored, expected = _stored(path / "params"), tree.shapes(config)
    left_out = tree.shapes(read_config(path)).keys() - expected.keys()
    found = {name: array for name, array in stored.items() if name not in left_out}
    tree.check(expected, found)
    return found


def _stored(path: Path) -> dict[str, Stored]:
    """The arrays by name, unread: orbax joins the name's parts by dots and keeps each array as zarr."""
    return {file.parent.name.replace(".", "/"): ZarrArray(file.parent) for file in sorted(path.glob("*/.zarray"))}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": value} as {"a": {"b": value}}."""
    root: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, leaf = name.split("/")
        node = root
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = value
    return root


def _flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat
