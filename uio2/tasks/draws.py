"""Choices from the numbers in 0..1 that arrive with a record: nothing else in stage 1 is random."""

from __future__ import annotations

from uio2.tasks.lazy import tf


def pick_index(count: int | tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """int32 scalar below `count`, of which there is at least one."""
    count = tf.cast(count, tf.int32)
    return tf.minimum(tf.cast(draw * tf.cast(count, tf.float32), tf.int32), count - 1)


def pick(values: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """The element of a non-empty vector that a number in 0..1 points at."""
    return values[pick_index(tf.shape(values)[0], draw)]


def noise(count: int | tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """float32 [count] in 0..1, a function of one number: for orders and samples (Philox, so the same everywhere)."""
    seed = tf.stack([tf.bitcast(draw, tf.int32), tf.constant(0)])
    return tf.random.stateless_uniform([count], seed, alg="philox")


def shuffle(values: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """The rows of a tensor in an order that is a function of one number."""
    return tf.gather(values, tf.argsort(noise(tf.shape(values)[0], draw), stable=True))
