"""Text with parts of it hidden, for denoising: which words, and what then is asked and answered.

The unit is the word (what stands between white space), not the token: everything random stays in stage 1, where the
example can be read and does not depend on the vocabulary. A word starts with a space, so the tokens of the words around
a hole are those of the whole text, and a sentinel `<extra_id_k>` always stands where its piece is recognised, behind a
space (MODEL.md section 12). The price: a mean of 3 words is a longer hole than T5's 3 tokens (about 4), and text
written without spaces is one word, which cannot be corrupted.
"""

from __future__ import annotations

import dataclasses

from uio2.tasks.draws import noise
from uio2.tasks.lazy import tf

SENTINELS = 200


@dataclasses.dataclass(frozen=True)
class Corruption:
    """How much of a text is hidden.

    Attributes:
      share: of the words, about.
      mean: words in one hole, about.
    """

    share: float
    mean: float


def hide_spans(words: tf.Tensor, *, how: Corruption, draw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The text with holes and what was in them.

    As in T5, hidden and kept words are cut into parts at places that are all equally likely. Unlike there, a text may
    start with a hole and need not end with one: a short text has a single hole, which would always be its end.

    Args:
      words: string [n], n of at least 2.
      how: how much is hidden.
      draw: a number in 0..1 that decides where.

    Returns:
      `a <extra_id_0> d <extra_id_1> f` and `<extra_id_0> b c <extra_id_1> e`, string scalars.
    """
    hidden = _span_mask(tf.size(words), how=how, draw=draw)
    starts = hidden & ~tf.concat([[False], hidden[:-1]], 0)
    number = tf.strings.as_string(tf.cumsum(tf.cast(starts, tf.int32)) - 1)
    sentinels = tf.strings.join(["<extra_id_", number, ">"])
    seen = tf.boolean_mask(tf.where(starts, sentinels, words), starts | ~hidden)
    answers = tf.where(starts, tf.strings.join([sentinels, words], " "), words)
    return _joined(seen), _joined(tf.boolean_mask(answers, hidden))


def split_at(words: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first `place` words, and the rest."""
    return _joined(words[:place]), _joined(words[place:])


def _joined(words: tf.Tensor) -> tf.Tensor:
    return tf.strings.reduce_join(words, separator=" ")


def _span_mask(total: tf.Tensor, *, how: Corruption, draw: tf.Tensor) -> tf.Tensor:
    """bool [total]: true on hidden words."""
    count = tf.cast(total, tf.float32)
    num_hidden = tf.clip_by_value(tf.cast(tf.round(count * how.share), tf.int32), 1, total - 1)
    num_spans = tf.cast(tf.round(tf.cast(num_hidden, tf.float32) / how.mean), tf.int32)
    most = tf.minimum(tf.minimum(num_hidden, total - num_hidden + 1), SENTINELS)
    num_spans = tf.clip_by_value(num_spans, 1, most)
    places = noise(2 * total + 1, draw)
    hidden = _parts(num_hidden, num_spans, places[:total])
    # One word more at either end, taken away again: the outer parts alone may be empty.
    kept = _parts(total - num_hidden + 2, num_spans + 1, places[total:])
    kept -= tf.one_hot(0, num_spans + 1, dtype=tf.int32) + tf.one_hot(num_spans, num_spans + 1, dtype=tf.int32)
    lengths = tf.reshape(tf.stack([kept, tf.concat([hidden, [0]], 0)], 1), [-1])
    return tf.repeat(tf.tile([False, True], [num_spans + 1]), lengths)


def _parts(total: tf.Tensor, count: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """int32 [count]: lengths of 1 or more that add up to `total`.

    Args:
      total, count: int32 scalars.
      places: float32 [total - 1 or more]: the cuts are where the least are.
    """
    order = tf.argsort(places[: total - 1], stable=True)
    cuts = tf.sort(order[: count - 1]) + 1
    edges = tf.concat([[0], cuts, [total]], 0)
    return edges[1:] - edges[:-1]
