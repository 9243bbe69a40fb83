"""Stage 1 for tasks about text alone: a record has a key and texts, and nothing but text goes into the example."""

from __future__ import annotations

from uio2.tasks.lazy import tf
from uio2.tasks.task import Media, Record, Setting, Task


class TextTask(Task):
    """A task family without pictures or sound.

    Attributes:
      key: path of what names a record: a text, or a number that is unique in the dataset.
    """

    key: str = "key"
    media_fields = ("key",)
    takes: tuple[str, ...] = ()

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del item, draws, setting
        number, name = named(record[self.key])
        return Media({}, number, name, tf.zeros(11), tf.zeros(4))


def named(key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """int64 and string scalars of a record's key, which is either."""
    if key.dtype == tf.string:
        return tf.strings.to_hash_bucket_fast(key, 2**62), key  # only that it is unique matters
    return tf.cast(key, tf.int64), tf.strings.as_string(key)


def tidy(text: tf.Tensor) -> tf.Tensor:
    """Text whose lines stay lines: no control characters, no space at the ends, at most one empty line in a row."""
    text = tf.strings.regex_replace(text, r"\r\n?", "\n")
    text = tf.strings.regex_replace(text, r"[\x00-\x08\x0b-\x1f\x7f]", " ")
    text = tf.strings.regex_replace(text, r"\n(?:[ \t]*\n)+", "\n\n")
    return tf.strings.strip(text)


def has_words(text: tf.Tensor) -> tf.Tensor:
    """bool of the same shape: whether there is anything but white space and control characters."""
    return tf.strings.length(tidy(text)) > 0
