"""Stage 3: fixed shapes, decoder inputs and masks: the model batch (`uio2.tasks` says what it holds)."""

from __future__ import annotations

from collections.abc import Mapping

import seqio
import tensorflow as tf

from uio2.tasks.specs import RegisterSpec
from uio2.tasks.unified import Batch

_IMAGE = ("inputs/image/input", "inputs/image/mask", "inputs/image/pos_ids")
_TARGETS = ("targets/text/tokens", "targets/text/pos_ids", "targets/text/segment_ids")


def shift_right(targets: tf.Tensor, pos_ids: tf.Tensor) -> tf.Tensor:
    """Decoder inputs [..., d]: the token before, and 0 (start) at the beginning of every segment."""
    before = tf.roll(targets, shift=1, axis=-1)
    return tf.where(pos_ids > 0, before, tf.zeros_like(before))


def _valid(tokens: tf.Tensor) -> tf.Tensor:
    return tf.cast(tokens > 0, tf.int32)


def convert(batch: Mapping[str, tf.Tensor], *, recipe: RegisterSpec) -> Batch:
    """Stage 2 features of B examples to the model batch; `meta/` passes through.

    Several targets together longer than `recipe.text_targets` are cut there.
    """
    rows = tf.shape(batch["inputs/image/mask"])[0]

    def fixed(key: str, length: int) -> tf.Tensor:
        return tf.cast(batch[key].to_tensor(shape=[None, length]), tf.int32)

    tokens = fixed("inputs/text/tokens", recipe.text_inputs)
    targets, pos_ids, segments = (fixed(k, recipe.text_targets) for k in _TARGETS)
    # A target that only holds EOS teaches nothing: ids sum to 1 and its whole mask is 0.
    taught = tf.cast(tf.reduce_sum(targets, axis=1, keepdims=True) > 1, tf.int32)
    out: Batch = {
        "inputs/text/tokens": tokens,
        "inputs/text/mask": _valid(tokens),
        "inputs/text/pos_ids": tf.tile(tf.range(recipe.text_inputs)[None], [rows, 1]),
        "targets/text/inputs": shift_right(targets, pos_ids),
        "targets/text/targets": targets,
        "targets/text/mask": _valid(targets) * taught,
        "targets/text/pos_ids": pos_ids,
        "targets/text/segment_ids": segments,
    }
    out |= {k: batch[k] for k in _IMAGE}
    return out | {k: v for k, v in batch.items() if k.startswith("meta/")}


def convert_one(example: Mapping[str, tf.Tensor], *, recipe: RegisterSpec) -> Batch:
    """`convert` for one stage 2 example without a batch dimension; drops `meta/`."""
    keys = ("inputs/text/tokens", *_TARGETS)
    batch = {k: tf.RaggedTensor.from_tensor(example[k][None]) for k in keys}
    batch |= {k: example[k][None] for k in _IMAGE}
    return {k: v[0] for k, v in convert(batch, recipe=recipe).items()}


class UnifiedConverter(seqio.FeatureConverter):
    """`convert` as a seqio feature converter, for users who bring their own seqio loop."""

    _INTS = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
    _PATCHES = seqio.FeatureConverter.FeatureSpec(dtype=tf.float32, rank=2)
    TASK_FEATURES = dict.fromkeys(("inputs/text/tokens", *_TARGETS, *_IMAGE[1:]), _INTS) | {_IMAGE[0]: _PATCHES}
    _TEXT_OUT = ("inputs/text/tokens", "inputs/text/mask", "inputs/text/pos_ids")
    _TARGETS_OUT = tuple(f"targets/text/{k}" for k in ("inputs", "targets", "mask", "pos_ids", "segment_ids"))
    MODEL_FEATURES = dict.fromkeys((*_TEXT_OUT, *_TARGETS_OUT, *_IMAGE[1:]), _INTS) | {_IMAGE[0]: _PATCHES}
    PACKING_FEATURE_DTYPES = None

    def __init__(self, *, recipe: RegisterSpec) -> None:
        self._recipe = recipe
        super().__init__(pack=False, apply_length_check=False)

    @staticmethod
    def lengths(recipe: RegisterSpec) -> dict[str, int]:
        """The `task_feature_lengths` this converter expects."""
        patches = recipe.image_size[0] * recipe.image_size[1] // recipe.image_patch_size**2
        targets = dict.fromkeys(_TARGETS, recipe.text_targets)
        return {"inputs/text/tokens": recipe.text_inputs} | targets | dict.fromkeys(_IMAGE, patches)

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        del task_feature_lengths
        return ds.map(lambda example: convert_one(example, recipe=self._recipe))

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        inputs = dict.fromkeys(self._TEXT_OUT, task_feature_lengths["inputs/text/tokens"])
        targets = dict.fromkeys(self._TARGETS_OUT, task_feature_lengths["targets/text/tokens"])
        return inputs | targets | {k: task_feature_lengths[k] for k in _IMAGE}
