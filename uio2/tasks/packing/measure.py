"""What examples take, counted by the stages themselves but without pixels.

Media are counted from the masks of stage 1, texts by stages 2 and 3 on texts alone. Pictures are then asked for by
nobody, so TensorFlow leaves the decode and the resize out of the graph: an example costs its record's fields, its
header and its prompt. Sound costs its spectrogram, because only that says what is silent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from uio2.tasks import image
from uio2.tasks.converter import convert
from uio2.tasks.packing.spec import ITEMS
from uio2.tasks.shapes import media_features
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.unified import unify
from uio2.tasks.vocabulary import UnifiedVocabulary

Example = Mapping[str, tf.Tensor]
COUNTS = "counts"


def count_media(example: Example, *, recipe: RegisterSpec, latents: Mapping[str, int]) -> dict[str, tf.Tensor]:
    """A stage 1 example as its texts and int32 [columns]: tokens and items of its media, see `sizes.COLUMNS`.

    Args:
      example: stage 1 features.
      recipe: modalities and sizes.
      latents: tokens a frame of `image_history` and `audio_history` becomes.
    """
    shapes = media_features(recipe)
    tokens = {"inputs": tf.constant(0), "targets": tf.constant(0)}
    items = []
    for name in ITEMS:
        side, modality = name.split("/")
        if f"{name}/mask" not in shapes:
            items.append(tf.constant(0))
            continue
        patches = _patches(example, name, recipe=recipe)
        if modality.endswith("_history"):
            frames = patches[: shapes[f"{name}/mask"].shape[0]]
            count = tf.reduce_sum(tf.cast(frames > 0, tf.int32))
            tokens[side] += count * latents[modality]
        else:
            total = tf.minimum(tf.reduce_sum(patches), shapes[f"{name}/mask"].shape[0])
            count = tf.cast(total > 0, tf.int32)
            tokens[side] += total
        items.append(count)
    texts = {"text_inputs": example["text_inputs"], "text_targets": example["text_targets"]}
    return texts | {COUNTS: tf.stack([tokens["inputs"], tokens["targets"], *items])}


def _patches(example: Example, name: str, *, recipe: RegisterSpec) -> tf.Tensor:
    """int32 [items]: real patches of each picture or segment."""
    side, modality = name.split("/")
    kind = modality.removesuffix("_history")
    mask = example.get(f"{modality}_{side}_mask")
    if mask is None:
        return tf.zeros([0], tf.int32)
    if side == "inputs":
        patch = recipe.image_patch_size if kind == "image" else recipe.audio_patch_size
    else:
        patch = recipe.image_target_patch_size if kind == "image" else recipe.audio_target_patch_size
    mask = mask if mask.shape.rank == 3 else mask[None]
    return tf.reduce_sum(image.patch_mask(mask, patch=patch), axis=1)


def measure(batch: Example, *, vocabulary: UnifiedVocabulary, recipe: RegisterSpec) -> tf.Tensor:
    """int32 [B, columns] of a batch of `count_media`'s examples, texts included."""
    texts = dataclasses.replace(recipe, input_modalities=("text",), target_modalities=("text",))
    found = convert(unify(batch, vocabulary=vocabulary, recipe=texts), recipe=texts)
    sides = [tf.reduce_sum(found["inputs/text/mask"], axis=1)]
    targets = tf.reduce_sum(found["targets/text/mask"], axis=1)
    sides.append(targets if "text" in recipe.target_modalities else tf.zeros_like(targets))
    counts = batch[COUNTS]
    return counts + tf.pad(tf.stack(sides, axis=1), [[0, 0], [0, counts.shape[1] - 2]])
