"""Stage 3: fixed shapes, decoder inputs and masks: the model batch (`uio2.tasks` says what it holds)."""

from __future__ import annotations

from collections.abc import Mapping

import seqio
import tensorflow as tf

from uio2.tasks.guard import NO_TARGET, REASON
from uio2.tasks.shapes import Feature, media_features, text_features
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.unified import Batch

_TARGETS = ("targets/text/tokens", "targets/text/pos_ids", "targets/text/segment_ids")
_RAGGED = ("inputs/text/tokens", *_TARGETS)
LOSS_MASKS = ("targets/text/mask", "targets/image/loss_mask", "targets/audio/loss_mask")


def shift_right(targets: tf.Tensor, pos_ids: tf.Tensor) -> tf.Tensor:
    """Decoder inputs [..., d]: the token before, and 0 (start) at the beginning of every segment."""
    before = tf.roll(targets, shift=1, axis=-1)
    return tf.where(pos_ids > 0, before, tf.zeros_like(before))


def _valid(tokens: tf.Tensor) -> tf.Tensor:
    return tf.cast(tokens > 0, tf.int32)


def convert(batch: Mapping[str, tf.Tensor], *, recipe: RegisterSpec) -> Batch:
    """Stage 2 features of B examples to the model batch; `meta/` passes through.

    `REASON` is made, or completed: of an example without any position in the loss it is not empty.
    Several targets together longer than `recipe.text_targets` are cut there. Answer options, which only evaluation
    has, are as wide as the most and the longest of the batch.
    """
    rows = tf.shape(batch["meta/length_inputs"])[0]
    tokens = _fixed(batch, "inputs/text/tokens", recipe.text_inputs)
    out: Batch = {
        "inputs/text/tokens": tokens,
        "inputs/text/mask": _valid(tokens),
        "inputs/text/pos_ids": tf.tile(tf.range(recipe.text_inputs)[None], [rows, 1]),
    }
    if "text" in recipe.target_modalities:
        out |= _text_targets(batch, recipe.text_targets)
    for key, feature in media_features(recipe).items():
        out[key] = tf.ensure_shape(batch[key], [None, *feature.shape])
    if "choices/tokens" in batch:
        out["choices/tokens"] = batch["choices/tokens"].to_tensor()
    reason = batch.get(REASON, tf.fill([rows], ""))
    untaught = ~tf.reduce_any([tf.reduce_any(out[key] > 0, axis=1) for key in LOSS_MASKS if key in out], axis=0)
    out[REASON] = tf.where(untaught & (reason == ""), NO_TARGET, reason)
    return out | {k: v for k, v in batch.items() if k.startswith("meta/") and k != REASON}


def _fixed(batch: Mapping[str, tf.Tensor], key: str, length: int) -> tf.Tensor:
    return tf.cast(batch[key].to_tensor(shape=[None, length]), tf.int32)


def _text_targets(batch: Mapping[str, tf.Tensor], length: int) -> Batch:
    targets, pos_ids, segments = (_fixed(batch, key, length) for key in _TARGETS)
    # A target that only holds EOS teaches nothing: ids sum to 1 and its whole mask is 0.
    taught = tf.cast(tf.reduce_sum(targets, axis=1, keepdims=True) > 1, tf.int32)
    return {
        "targets/text/inputs": shift_right(targets, pos_ids),
        "targets/text/targets": targets,
        "targets/text/mask": _valid(targets) * taught,
        "targets/text/pos_ids": pos_ids,
        "targets/text/segment_ids": segments,
    }


def convert_one(example: Mapping[str, tf.Tensor], *, recipe: RegisterSpec) -> Batch:
    """`convert` for one stage 2 example without a batch dimension; drops `meta/` and answer options."""
    batch = {
        key: tf.RaggedTensor.from_tensor(value[None]) if key in _RAGGED else value[None]
        for key, value in example.items()
        if key in task_features(recipe)
    }
    batch["meta/length_inputs"] = tf.size(example["inputs/text/tokens"])[None]
    found = convert(batch, recipe=recipe)
    return {k: v[0] for k, v in found.items() if not k.startswith("meta/")}


class UnifiedConverter(seqio.FeatureConverter):
    """`convert` as a seqio feature converter, for users who bring their own seqio loop."""

    # seqio asks for these on the class; what they hold depends on the recipe.
    TASK_FEATURES: Mapping[str, seqio.FeatureConverter.FeatureSpec] = {}
    MODEL_FEATURES: Mapping[str, seqio.FeatureConverter.FeatureSpec] = {}
    PACKING_FEATURE_DTYPES = None

    def __init__(self, *, recipe: RegisterSpec) -> None:
        self._recipe = recipe
        self.TASK_FEATURES = {k: _seqio_spec(f) for k, f in task_features(recipe).items()}
        self.MODEL_FEATURES = {k: _seqio_spec(f) for k, f in _model_features(recipe).items()}
        super().__init__(pack=False, apply_length_check=False)

    @staticmethod
    def lengths(recipe: RegisterSpec) -> dict[str, int]:
        """The `task_feature_lengths` this converter expects."""
        return {key: feature.shape[0] for key, feature in task_features(recipe).items()}

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        del task_feature_lengths
        return ds.map(lambda example: convert_one(example, recipe=self._recipe))

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        del task_feature_lengths
        return {key: feature.shape[0] for key, feature in _model_features(self._recipe).items()}


def task_features(recipe: RegisterSpec) -> dict[str, Feature]:
    """What stage 2 yields for one example, texts with their longest length."""
    found = {"inputs/text/tokens": Feature((recipe.text_inputs,))}
    if "text" in recipe.target_modalities:
        found |= dict.fromkeys(_TARGETS, Feature((recipe.text_targets,)))
    return found | media_features(recipe)


def _model_features(recipe: RegisterSpec) -> dict[str, Feature]:
    return text_features(recipe) | media_features(recipe)


def _seqio_spec(feature: Feature) -> seqio.FeatureConverter.FeatureSpec:
    return seqio.FeatureConverter.FeatureSpec(dtype=tf.as_dtype(feature.dtype), rank=len(feature.shape))
