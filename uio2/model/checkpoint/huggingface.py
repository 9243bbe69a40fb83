"""Models as on the Hugging Face hub: `config.json` beside `model.safetensors`, under the PyTorch port's names.

Read also: several safetensors files with an index, and `pytorch_model.bin`, as the first releases were (spec:
HUGGINGFACE.md). The port has no field for the resamplers' GELU and computes the exact one; the models were trained
with the tanh form, which is therefore the default here. `load(path, config=...)` with `gelu="erf"` is the port.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from uio2.model.checkpoint import hub, safetensors, t5x, torch_names, torch_zip, tree
from uio2.model.checkpoint.modalities import match
from uio2.model.checkpoint.publish import new_directory
from uio2.model.checkpoint.stored import Placement, Stored
from uio2.model.config import ModelConfig
from uio2.model.parts import ConfigError
from uio2.model.unified_io import UnifiedIO2


def load(
    path_or_repo: str | Path, *, config: ModelConfig | None = None, dtype: Any = jnp.float32,
    sharding: Placement | None = None, revision: str | None = None,
) -> UnifiedIO2:  # fmt: skip
    """The model in a folder, or in a repository of the hub.

    Args:
      path_or_repo: a folder, or `owner/name` (needs the extra `uio2[hub]`).
      config: in place of the folder's own; modalities it leaves out are not read.
      dtype: of the parameters in memory; None keeps what each was stored in (the `-bfloat16` variants are mixed).
      sharding: our parameter name -> where it goes; each device reads its own part.
      revision: branch, tag or commit of a repository.

    Raises:
      CheckpointError: tensors are missing, too many, of another shape or unreadable; one error lists them all, in the
        file's names and shapes.
    """
    folder = hub.resolve(path_or_repo, revision=revision)
    config = config or read_config(folder)
    return t5x.build(fitting(folder, config=config), config=config, dtype=dtype, sharding=sharding)


def fitting(folder: Path, *, config: ModelConfig) -> dict[str, Stored]:
    """The folder's arrays under the names and in the layout of `t5x.expected_shapes`; views, nothing is read.

    Raises:
      CheckpointError: see `load`.
    """
    state = read_state_dict(folder)
    expected = t5x.expected_shapes(config)
    # A key that no T5X path has stays under its own name, which `match` leaves for `check` to report.
    paths = {torch_names.from_torch(key) or key: key for key in state}
    found = match(expected, paths, config=config)
    tree.check(
        {torch_names.to_torch(p): torch_names.operation(p).torch_shape(shape) for p, shape in expected.items()},
        {torch_names.to_torch(ours): state[paths[theirs]] for ours, theirs in found.items()},
    )
    return {ours: torch_names.operation(ours).to_t5x(state[paths[theirs]]) for ours, theirs in found.items()}


def save(model: UnifiedIO2, path: str | Path) -> None:
    """Writes a folder that `load` and the port read, each parameter in the dtype it has; `path` must not exist.

    Raises:
      ConfigError: the published structure cannot say the model's config.
    """
    config = json.dumps(model.config.to_reference())
    with new_directory(path) as folder:
        (folder / hub.CONFIG).write_text(config)
        safetensors.write(state_dict(t5x.views(model)), folder / hub.WEIGHTS)


def state_dict(flat: Mapping[str, Stored]) -> dict[str, Stored]:
    """T5X-named arrays under the port's keys and in its layout; views, nothing is read."""
    return {torch_names.to_torch(path): torch_names.operation(path).to_torch(array) for path, array in flat.items()}


def read_config(folder: Path) -> ModelConfig:
    """The folder's `config.json`.

    Raises:
      CheckpointError: it is missing, or not a published model's.
    """
    try:
        return ModelConfig.from_reference(json.loads((folder / hub.CONFIG).read_text()))
    except FileNotFoundError as e:
        raise tree.CheckpointError(f"{folder} has no {hub.CONFIG}; give `config=`") from e
    except ConfigError as e:
        raise tree.CheckpointError(f"{folder / hub.CONFIG}: {e}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise tree.CheckpointError(
            f"{folder / hub.CONFIG} is not a published model's config ({type(e).__name__}: {e})"
        ) from e


def read_state_dict(folder: Path) -> dict[str, Stored]:
    """{key: array} of the folder's weights, none of them read yet.

    Raises:
      CheckpointError: there are none, or a file is not whole or not what its name says.
    """
    if (folder / hub.WEIGHTS).is_file():
        return safetensors.read(folder / hub.WEIGHTS)
    if (folder / hub.PARTS).is_file():
        return _parts(folder)
    if (folder / hub.PICKLED).is_file():
        return torch_zip.read(folder / hub.PICKLED)
    raise tree.CheckpointError(f"{folder} has none of {hub.WEIGHTS}, {hub.PARTS}, {hub.PICKLED}")


def _parts(folder: Path) -> dict[str, Stored]:
    try:
        where = json.loads((folder / hub.PARTS).read_text())["weight_map"]
        names = sorted({Path(name).name for name in where.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise tree.CheckpointError(f"{folder / hub.PARTS} is no index ({type(e).__name__}: {e})") from e
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise tree.CheckpointError(f"{folder} lacks {', '.join(absent)}, which {hub.PARTS} names")
    state: dict[str, Stored] = {}
    for name in names:
        state |= safetensors.read(folder / name)
    lost = sorted(set(where) - set(state))
    if lost:
        raise tree.CheckpointError(f"{folder}: no file holds what {hub.PARTS} names: {', '.join(lost)}")
    return state
