"""Stored datasets (TFDS directories) as tasks see them: fields parsed, the image left as bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from uio2.tasks.records import RecordIndex, RecordReader, scan


class DatasetError(Exception):
    """A dataset directory that cannot serve a task: names the directory, what is missing and the fix."""


class StoredDataset:
    """One TFDS directory.

    Attributes:
      directory: the folder that holds `dataset_info.json` and `features.json`.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        if not (self.directory / "dataset_info.json").is_file():
            raise DatasetError(f"{directory}: no dataset_info.json; expected a built TFDS dataset, run its build stage")
        self._builder = tfds.builder_from_directory(self.directory)

    @property
    def name(self) -> str:
        return self._builder.name

    @property
    def features(self) -> tfds.features.FeaturesDict:
        return self._builder.info.features

    @property
    def splits(self) -> dict[str, int]:
        """Split name -> number of records."""
        return {name: int(split.num_examples) for name, split in self._builder.info.splits.items()}

    def files(self, split: str) -> list[str]:
        """The split's TFRecord files, in order.

        Raises:
          DatasetError: there is no such split.
        """
        if split not in self._builder.info.splits:
            raise DatasetError(f"{self.directory}: no split {split!r}; it has {sorted(self._builder.info.splits)}")
        return [str(path) for path in self._builder.info.splits[split].filepaths]

    def classes(self) -> tuple[str, ...]:
        """Names of the object classes; empty if objects carry none."""
        objects = dict(self.features.items()).get("objects")
        label = dict(objects.feature.items()).get("label") if objects is not None else None
        return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()

    def parser(self, fields: Iterable[str]) -> Callable[[tf.Tensor], dict[str, Any]]:
        """A TensorFlow function from serialized bytes to the nested fields given by their paths.

        Raises:
          DatasetError: the dataset has no such field.
        """
        chosen: dict[str, Any] = {}
        for path in fields:
            if path in self.features:
                chosen[path] = True
                continue
            node, parts = chosen, path.split("/")
            self._check_path(path)
            for part in parts[:-1]:
                node = node.setdefault(part, {})
            node[parts[-1]] = True
        features = tfds.decode.PartialDecoding(chosen).extract_features(self.features)
        decoders = {"image": tfds.decode.SkipDecoding()} if "image" in chosen else None
        return lambda serialized: features.deserialize_example(serialized, decoders=decoders)

    def _check_path(self, path: str) -> None:
        if self._find(path) is None:
            raise DatasetError(f"{self.directory}: no field {path!r}; build the dataset with this version")

    def _find(self, path: str) -> Any:
        node: Any = self.features
        for part in path.split("/"):
            node = getattr(node, "feature", node)
            if not hasattr(node, "keys") or part not in node:
                return None
            node = node[part]
        return node

    def is_text(self, path: str) -> bool:
        """Whether the record holds a text, or sequences of texts, at this path."""
        node = self._find(path)
        while hasattr(node, "feature"):
            node = node.feature
        return node is not None and not hasattr(node, "keys") and node.dtype == np.str_

    def stream(self, split: str, fields: Iterable[str]) -> tf.data.Dataset:
        """All records of a split in file order, parsed."""
        files = tf.data.TFRecordDataset(self.files(split))
        return files.map(self.parser(fields), num_parallel_calls=2, deterministic=True).prefetch(64)

    @functools.cache  # noqa: B019  datasets live as long as the process that feeds from them
    def index(self, split: str) -> RecordIndex:
        """Where the split's records lie; scanned once."""
        return scan(self.files(split))

    def reader(self, split: str, index: RecordIndex | None = None) -> RecordReader:
        """Random access to the split's records."""
        return RecordReader(self.files(split), index or self.index(split))
