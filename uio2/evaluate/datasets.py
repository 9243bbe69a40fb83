"""Reading built datasets for scoring and for pictures: the TFDS directories, without decoding what is not asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import StageError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

    from uio2.tasks.datasets import StoredDataset


def stored_dataset(inputs: Mapping[str, Artifact], *, name: str, why: str) -> StoredDataset:
    """The dataset given as input `name`, as tasks read it; StageError naming the input if there is none."""
    from uio2.tasks.datasets import StoredDataset

    return StoredDataset(_directory(inputs, name=name, why=why))


def open_dataset(inputs: Mapping[str, Artifact], *, name: str, why: str) -> tfds.core.DatasetBuilder:
    """The TFDS builder of the dataset given as input `name`; StageError naming the input if there is none."""
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(_directory(inputs, name=name, why=why)))


def _directory(inputs: Mapping[str, Artifact], *, name: str, why: str) -> Path:
    if name not in inputs:
        raise StageError(f"input {name!r} is missing; {why} needs the dataset (given: {', '.join(sorted(inputs))})")
    artifact = inputs[name]
    return artifact.path / artifact.stats.get("tfds_dir", "")


def examples(
    builder: tfds.core.DatasetBuilder, *, split: str, features: Mapping[str, Any], limit: int = 0
) -> Iterator[dict[str, Any]]:
    """Stored examples as numpy, in stored order, with only the named features; images come as their encoded bytes.

    Args:
      builder: from `open_dataset`.
      split: must exist in the dataset.
      features: nested names with True at the leaves, as TFDS' `PartialDecoding` takes them.
      limit: stop after this many; 0 reads all.
    """
    import tensorflow_datasets as tfds

    if split not in builder.info.splits:
        raise StageError(f"dataset {builder.info.name!r} has no split {split!r}; it has {sorted(builder.info.splits)}")
    decoders = {"image": tfds.decode.SkipDecoding()} if features.get("image") is True else None
    data = builder.as_dataset(
        split=f"{split}[:{limit}]" if limit else split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(dict(features), decoders=decoders),
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    yield from tfds.as_numpy(data)
