"""Streams of different tasks made alike, so that they can be mixed and batched.

Tasks differ in what they have: one has no image, another several targets. A key that not every task has, and every
list whose length varies, becomes a list of 0, 1 or more items with that many rows; batches of it are ragged
(`uio2.tasks.unified_media`). Streams that are alike already stay as they are and pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

Example = dict[str, tf.Tensor]
# Lists by nature: a missing one is empty. Everything else is one item that may be missing.
_LISTS = ("image_history_inputs", "image_history_inputs_mask", "audio_history_inputs", "audio_history_inputs_mask")
_TEXTS = "text_targets"


def align(streams: Sequence[tf.data.Dataset]) -> list[tf.data.Dataset]:
    """The streams with equal keys, dtypes and ranks; an example's values do not change."""
    specs = [stream.element_spec for stream in streams]
    union: dict[str, list[tf.TensorSpec]] = {}
    for spec in specs:
        for key, value in spec.items():
            union.setdefault(key, []).append(value)
    partial = {key: found for key, found in union.items() if not _alike(found, count=len(specs))}
    if not partial:
        return list(streams)
    return [stream.map(_completer(partial), deterministic=True) for stream in streams]


def _alike(found: Sequence[tf.TensorSpec], *, count: int) -> bool:
    return len(found) == count and all(spec.shape.rank == found[0].shape.rank for spec in found)


def _completer(partial: Mapping[str, Sequence[tf.TensorSpec]]) -> Callable[[Example], Example]:
    def complete(example: Example) -> Example:
        out = dict(example)
        for key, found in partial.items():
            value = example.get(key)
            if key == _TEXTS:
                out[key] = tf.constant([""]) if value is None else tf.reshape(value, [-1])
            elif value is None:
                item = found[0].shape[1:] if key in _LISTS else found[0].shape
                out[key] = tf.zeros([0, *item], found[0].dtype)
            elif key not in _LISTS:
                out[key] = value[None]
        return out

    return complete
