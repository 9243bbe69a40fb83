"""Stage 2: the same features for every task of the recipe's modalities: text here, the rest in `unified_media`.

Works on a batch, where one call of the tokenizer and of each image operation serves all examples
(per-example calls cost more than the JPEG decode at 96x96); `unify_one` is the same for a single example.

Features for B examples; text is ragged here, fixed shapes are stage 3's business:
  inputs/text/tokens                       int32 [B, (t)]
  targets/text/tokens, pos_ids, segment_ids int32 [B, (d)]; several targets of one example become segments
  choices/tokens                           int32 [B, (c), (t)]; where the task has answer options, each with EOS
  inputs/image/..., targets/audio/..., ... as in the model batch
  meta/length_inputs, meta/length_targets  int32 [B]: tokens with EOS before anything was cut
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from uio2.tasks.specs import RegisterSpec
from uio2.tasks.unified_media import Batch, unify_media
from uio2.tasks.vocabulary import EOS_ID, UnifiedVocabulary


def unify(batch: Mapping[str, tf.Tensor], *, vocabulary: UnifiedVocabulary, recipe: RegisterSpec) -> Batch:
    """Stage 1 features of B examples to stage 2 features; `meta/` passes through.

    `text_targets` is string [B], or [B, None] (dense or ragged) for several targets; `text_choices` string [B, None].
    What the recipe does not name is left out, what an example lacks becomes zeros with mask 0.
    """
    texts = batch["text_inputs"]
    rows = tf.shape(texts)[0]
    tokens, lengths = _with_eos(vocabulary.tf_tokenizer.tokenize(texts), limit=recipe.text_inputs)
    out: Batch = {
        "inputs/text/tokens": tokens,
        "meta/length_inputs": lengths,
        "meta/length_targets": tf.zeros_like(lengths),
    }
    if "text" in recipe.target_modalities:
        targets = _lists(batch.get("text_targets", tf.fill([rows], "")))
        out |= _targets(targets, vocabulary=vocabulary, limit=recipe.text_targets)
    if "text_choices" in batch:
        choices = _lists(batch["text_choices"])
        each, _ = _with_eos(vocabulary.tf_tokenizer.tokenize(choices.values), limit=recipe.text_targets)
        out["choices/tokens"] = choices.with_values(each)
    out |= unify_media(batch, rows=rows, recipe=recipe)
    return out | {k: v for k, v in batch.items() if k.startswith("meta/")}


def _lists(texts: tf.Tensor | tf.RaggedTensor) -> tf.RaggedTensor:
    """Strings [B] or [B, n] as ragged [B, (n)]."""
    if isinstance(texts, tf.RaggedTensor):
        return texts
    return tf.RaggedTensor.from_tensor(texts[:, None] if texts.shape.rank == 1 else texts)


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


def unify_one(example: Mapping[str, tf.Tensor], *, vocabulary: UnifiedVocabulary, recipe: RegisterSpec) -> Batch:
    """`unify` for one example: no batch dimension in or out; `text_targets` may be a vector."""
    batch = {k: v[None] for k, v in example.items()}
    meta = {k: v for k, v in example.items() if k.startswith("meta/")}
    return {k: v[0] for k, v in unify(batch, vocabulary=vocabulary, recipe=recipe).items()} | meta
