"""The two JSON files that make a folder of shards a TFDS dataset: `features.json` and `dataset_info.json`.

Written by TFDS itself, so what it and seqio expect is what they get; it does so without importing TensorFlow. No date,
host or path enters the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def write_metadata(
    folder: Path,
    *,
    name: str,
    version: str,
    description: str,
    features: Any,
    shards: Mapping[str, Sequence[tuple[int, int]]],
) -> None:
    """Writes both files into `folder`, where the shards already are.

    Args:
      folder: `<name>/<version>`.
      name: the dataset's name.
      version: its TFDS version.
      description: one sentence, for people.
      features: a `tfds.features.FeaturesDict`.
      shards: per split, (records, bytes) of each shard in turn.
    """
    import tensorflow_datasets as tfds

    splits = []
    for split, sizes in shards.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix="tfrecord", template=TEMPLATE
        )
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[records for records, _ in sizes],
                num_bytes=sum(size for _, size in sizes),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=splits,
        filename_template=TEMPLATE,
        description=description,
        check_data=False,
    )
    _settle(folder / "dataset_info.json", name=name, version=version)
    _settle(folder / "features.json")


def _settle(path: Path, **replace: Any) -> None:
    """Rewrites a JSON file with sorted keys, so that equal content gives equal bytes."""
    value = json.loads(path.read_text(encoding="utf-8")) | replace
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
