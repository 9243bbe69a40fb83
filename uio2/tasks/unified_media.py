"""Stage 2 for pictures and sound: patches, masks, positions and normalised targets (MODEL.md section 13).

Each is a list of items per example: frames of a history, or the one picture that may be there. A batch in which every
example has its item comes dense; otherwise ragged, and only what is there is normalised and cut into patches. What is
missing becomes zeros with mask 0 and position 0, so every task yields the same features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import tensorflow as tf

from uio2.tasks import audio, image
from uio2.tasks.shapes import Feature, media_features
from uio2.tasks.specs import RegisterSpec

Batch = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Kind:
    """How one sort of item becomes features: what stage 1 calls it, its patch side and its normalisation."""

    key: str
    patch: int
    normalise: Callable[[tf.Tensor], tf.Tensor]
    channels: int


@dataclasses.dataclass(frozen=True)
class Items:
    """One modality of a batch, without what is missing.

    Attributes:
      values, mask: float32 [i, height, width(, c)] and bool [i, height, width], i items.
      splits: int64 [B + 1] where each example's items start; None: one item in each.
    """

    values: tf.Tensor
    mask: tf.Tensor
    splits: tf.Tensor | None

    @classmethod
    def of(cls, batch: Mapping[str, tf.Tensor], key: str, *, most: int) -> Items | None:
        """The first `most` items of each example; None if no example of the batch can have any."""
        values, mask = batch.get(key), batch.get(f"{key}_mask")
        if values is None or mask is None:
            return None
        if not isinstance(values, tf.RaggedTensor):
            if mask.shape.rank == 3:
                return cls(values, mask, None)
            values, mask = (tf.RaggedTensor.from_tensor(x, ragged_rank=1) for x in (values, mask))
        values, mask = values[:, :most], mask[:, :most]
        return cls(values.values, mask.values, values.row_splits)

    def spread(self, values: tf.Tensor, *, shape: tuple[int, ...], slots: int | None = None) -> tf.Tensor:
        """Values [i, ...] per item as [B, ...], or [B, slots, ...] for histories; zeros where there is no item."""
        if self.splits is None:
            return values
        rows = tf.RaggedTensor.from_row_splits(values, self.splits)
        dense = rows.to_tensor(shape=[None, slots or 1, *shape])
        return dense if slots else tf.squeeze(dense, 1)


def unify_media(batch: Mapping[str, tf.Tensor], *, rows: tf.Tensor, recipe: RegisterSpec) -> Batch:
    """The features of all modalities of the recipe but text, for `rows` examples."""
    shapes = media_features(recipe)
    pixels = Kind("image", recipe.image_patch_size, image.normalise, 3)
    sound = Kind("audio", recipe.audio_patch_size, audio.normalise_input, 1)
    found: Batch = {}
    for kind in (pixels, sound):
        if kind.key in recipe.input_modalities:
            found |= _input(batch, kind, count=shapes[f"inputs/{kind.key}/mask"].shape[0])
        if f"{kind.key}_history" in recipe.input_modalities:
            found |= _history(batch, kind, shape=shapes[f"inputs/{kind.key}_history/mask"].shape)
    codes = (
        Kind("image", recipe.image_target_patch_size, image.normalise_target, 3),
        Kind("audio", recipe.audio_target_patch_size, audio.normalise_target, 1),
    )
    for kind in codes:
        if kind.key in recipe.target_modalities:
            found |= _target(batch, kind, feature=shapes[f"targets/{kind.key}/{kind.key}"])
    return {key: found[key] if key in found else _zeros(rows, feature) for key, feature in shapes.items()}


def _zeros(rows: tf.Tensor, feature: Feature) -> tf.Tensor:
    return tf.zeros([rows, *feature.shape], tf.as_dtype(feature.dtype))


def _patches(items: Items, kind: Kind) -> tuple[tf.Tensor, tf.Tensor]:
    """float32 [i, n, p] and int32 [i, n]."""
    values = items.values if kind.channels > 1 else items.values[..., None]
    mask = image.patch_mask(items.mask, patch=kind.patch)
    return image.patchify(kind.normalise(values), patch=kind.patch), mask


def _input(batch: Mapping[str, tf.Tensor], kind: Kind, *, count: int) -> Batch:
    """One picture or segment; `count` of its patches, chosen by the noise of stage 1 if it is fewer than all."""
    prefix = f"inputs/{kind.key}"
    items = Items.of(batch, f"{kind.key}_inputs", most=1)
    if items is None:
        return {}
    patches, mask = _patches(items, kind)
    everything, values = patches.shape[1:]
    pos_ids = tf.tile(tf.range(everything)[None], [tf.shape(mask)[0], 1])
    if count < everything:
        noise = batch[f"{kind.key}_inputs_noise"]
        noise = noise.values if isinstance(noise, tf.RaggedTensor) else noise
        pos_ids = image.sample_patches(mask, noise, count=count)
        patches, mask = (tf.gather(x, pos_ids, axis=1, batch_dims=1) for x in (patches, mask))
    return {
        f"{prefix}/input": items.spread(patches, shape=(count, values)),
        f"{prefix}/mask": items.spread(mask, shape=(count,)),
        f"{prefix}/pos_ids": items.spread(pos_ids, shape=(count,)),
    }


def _history(batch: Mapping[str, tf.Tensor], kind: Kind, *, shape: tuple[int, ...]) -> Batch:
    """Frames, cut off or filled up; an example with any frame has positions in all slots, as the original."""
    slots, count = shape
    prefix = f"inputs/{kind.key}_history"
    items = Items.of(batch, f"{kind.key}_history_inputs", most=slots)
    if items is None or items.splits is None:
        return {}
    patches, mask = _patches(items, kind)
    splits = items.splits
    some = splits[1:] > splits[:-1]
    pos_ids = tf.where(some[:, None, None], tf.range(count)[None, None], 0)
    return {
        f"{prefix}/input": items.spread(patches, shape=(count, patches.shape[2]), slots=slots),
        f"{prefix}/mask": items.spread(mask, shape=(count,), slots=slots),
        f"{prefix}/pos_ids": tf.tile(pos_ids, [1, slots, 1]),
    }


def _target(batch: Mapping[str, tf.Tensor], kind: Kind, *, feature: Feature) -> Batch:
    """A target picture or segment. Its loss mask is its mask, its task mask zeros, unless the task gives them."""
    prefix, key = f"targets/{kind.key}", f"{kind.key}_targets"
    items = Items.of(batch, key, most=1)
    if items is None:
        return {}
    values = items.values if kind.channels > 1 else items.values[..., None]
    mask = image.patch_mask(items.mask, patch=kind.patch)
    codes = (mask.shape[1],)
    mask = items.spread(mask, shape=codes)
    return {
        f"{prefix}/{kind.key}": items.spread(kind.normalise(values), shape=feature.shape),
        f"{prefix}/mask": mask,
        f"{prefix}/loss_mask": _given(batch.get(f"{key}_loss_mask"), default=mask),
        f"{prefix}/task_mask": _given(batch.get(f"{key}_task_mask"), default=tf.zeros_like(mask)),
    }


def _given(value: tf.Tensor | tf.RaggedTensor | None, *, default: tf.Tensor) -> tf.Tensor:
    """int32 [B, n]: the task's mask where it gives one."""
    if value is None:
        return default
    if not isinstance(value, tf.RaggedTensor):
        return tf.cast(value, tf.int32)
    given = tf.cast(tf.squeeze(value.to_tensor(shape=[None, 1, default.shape[1]]), 1), tf.int32)
    return tf.where(value.row_lengths()[:, None] > 0, given, default)
