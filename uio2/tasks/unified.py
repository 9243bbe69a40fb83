"""Stage 2: the same features for every task: tokens with EOS, normalised patches, positions.

Works on a batch, where one call of the tokenizer and of each image operation serves all examples
(per-example calls cost more than the JPEG decode at 96x96); `unify_one` is the same for a single example.

Features for B examples; text is ragged here, fixed shapes are stage 3's business:
  inputs/text/tokens                       int32 [B, (t)]
  targets/text/tokens, pos_ids, segment_ids int32 [B, (d)]; several targets of one example become segments
  inputs/image/input, mask, pos_ids        as in the model batch
  meta/length_inputs, meta/length_targets  int32 [B]: tokens with EOS before anything was cut
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from uio2.tasks import image
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.vocabulary import EOS_ID, UnifiedVocabulary

Batch = dict[str, tf.Tensor]


def unify(batch: Mapping[str, tf.Tensor], *, vocabulary: UnifiedVocabulary, recipe: RegisterSpec) -> Batch:
    """Stage 1 features of B examples to stage 2 features; `meta/` passes through.

    `text_targets` is string [B], or ragged [B, None] for several targets. A missing modality becomes
    zeros with mask 0.
    """
    texts = batch["text_inputs"]
    tokens, lengths = _with_eos(vocabulary.tf_tokenizer.tokenize(texts), limit=recipe.text_inputs)
    out: Batch = {"inputs/text/tokens": tokens, "meta/length_inputs": lengths}
    targets = batch.get("text_targets")
    if targets is None:
        targets = tf.fill(tf.shape(texts), "")
    if not isinstance(targets, tf.RaggedTensor):
        targets = tf.RaggedTensor.from_tensor(targets[:, None])
    out |= _targets(targets, vocabulary=vocabulary, limit=recipe.text_targets)
    out |= _image(batch, tf.shape(texts)[0], recipe)
    return out | {k: v for k, v in batch.items() if k.startswith("meta/")}


def _with_eos(tokens: tf.RaggedTensor, *, limit: int) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Rows cut to `limit` - 1 tokens and ended by EOS, and their lengths without the cut."""
    lengths = tf.cast(tokens.row_lengths(), tf.int32) + 1
    kept = tokens[:, : limit - 1]
    ends = tf.RaggedTensor.from_tensor(tf.fill([kept.nrows(), 1], EOS_ID))
    return tf.concat([kept, ends], axis=1), lengths


def _targets(texts: tf.RaggedTensor, *, vocabulary: UnifiedVocabulary, limit: int) -> Batch:
    """All targets of an example behind one another, each its own segment with its own positions."""
    each, lengths = _with_eos(vocabulary.tf_tokenizer.tokenize(texts.values), limit=limit)
    rows = texts.with_values(each)
    positions = tf.ragged.range(each.row_lengths())
    number = tf.ragged.range(texts.row_lengths()).values + 1
    segments = each.with_values(tf.gather(number, each.value_rowids()))
    total = tf.reduce_sum(texts.with_values(lengths), axis=1)
    return {
        "targets/text/tokens": rows.merge_dims(1, 2),
        "targets/text/pos_ids": tf.cast(texts.with_values(positions).merge_dims(1, 2), tf.int32),
        "targets/text/segment_ids": tf.cast(texts.with_values(segments).merge_dims(1, 2), tf.int32),
        "meta/length_targets": total,
    }


def _image(batch: Mapping[str, tf.Tensor], size: tf.Tensor, recipe: RegisterSpec) -> Batch:
    patch = recipe.image_patch_size
    canvas = image.Canvas(recipe.image_size, patch)
    n = canvas.num_patches
    if "image_inputs" not in batch:
        empty = tf.zeros([size, n], tf.int32)
        return {
            "inputs/image/input": tf.zeros([size, n, patch * patch * 3]),
            "inputs/image/mask": empty,
            "inputs/image/pos_ids": empty,
        }
    return {
        "inputs/image/input": image.patchify(image.normalise(batch["image_inputs"]), patch=patch),
        "inputs/image/mask": image.patch_mask(batch["image_inputs_mask"], patch=patch),
        "inputs/image/pos_ids": tf.tile(tf.range(n)[None], [size, 1]),
    }


def unify_one(example: Mapping[str, tf.Tensor], *, vocabulary: UnifiedVocabulary, recipe: RegisterSpec) -> Batch:
    """`unify` for one example: no batch dimension in or out; `text_targets` may be a vector."""
    batch = {k: v[None] for k, v in example.items()}
    if example["text_targets"].shape.rank == 1:
        batch["text_targets"] = tf.RaggedTensor.from_tensor(batch["text_targets"])
    meta = {k: v for k, v in example.items() if k.startswith("meta/")}
    return {k: v[0] for k, v in unify(batch, vocabulary=vocabulary, recipe=recipe).items()} | meta
