"""`tf.train.Example` without TensorFlow: the message rebuilt as a bare protobuf, serialised deterministically.

Importing TensorFlow in a worker costs more CPU than encoding ten thousand examples. The wire format is that of
tensorflow/core/example/{example,feature}.proto, so TFDS and seqio read the result.

How TFDS spells nested values, which `Example` follows: a `Sequence` of rows becomes one list per column
(`objects/label`), a fixed inner shape is flattened (`objects/bbox` has four floats per row), and a `Sequence` in a
`Sequence` becomes `.../ragged_flat_values` with `.../ragged_row_lengths_0`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


@functools.cache
def _message_class() -> Any:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="uio2/tf_example.proto", package="uio2", syntax="proto3")
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(
        (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
    ):
        feature.field.add(
            name=name,
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".uio2.{kind}",
            label=field.LABEL_OPTIONAL,
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=field.TYPE_MESSAGE, type_name=".uio2.Feature", label=field.LABEL_OPTIONAL
    )
    features.field.add(
        name="feature",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".uio2.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )
    file.message_type.add(name="Example").field.add(
        name="features", number=1, type=field.TYPE_MESSAGE, type_name=".uio2.Features", label=field.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("uio2.Example"))


@dataclasses.dataclass(frozen=True)
class Example:
    """Flat features by name: `ints` and `floats` are numbers, `strings` text (UTF-8) or bytes."""

    ints: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    floats: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    strings: Mapping[str, Sequence[str | bytes]] = dataclasses.field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The serialised message; equal values give equal bytes."""
        message = _message_class()()
        feature = message.features.feature
        for name, values in self.ints.items():
            feature[name].int64_list.SetInParent()
            feature[name].int64_list.value.extend(values)
        for name, numbers in self.floats.items():
            feature[name].float_list.SetInParent()
            feature[name].float_list.value.extend(numbers)
        for name, texts in self.strings.items():
            feature[name].bytes_list.SetInParent()
            feature[name].bytes_list.value.extend(t.encode() if isinstance(t, str) else t for t in texts)
        return message.SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> Example:
        """Parses a serialised message; strings come back as bytes."""
        message = _message_class().FromString(data)
        kinds: dict[str, dict[str, list]] = {"int64_list": {}, "float_list": {}, "bytes_list": {}}
        for name, value in message.features.feature.items():
            kind = value.WhichOneof("kind")
            if kind is not None:
                kinds[kind][name] = list(getattr(value, kind).value)
        return cls(kinds["int64_list"], kinds["float_list"], kinds["bytes_list"])
