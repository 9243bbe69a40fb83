"""Audio tagging: the names of everything that sounds in a clip, joined by commas."""

from __future__ import annotations

from uio2.tasks.audio_family import AudioTask
from uio2.tasks.draws import shuffle
from uio2.tasks.lazy import tf
from uio2.tasks.task import DRAW_TARGET, Record, Setting, Texts, clean


class AudioTagging(AudioTask):
    """One example per clip that has labels.

    Labels have no order, so training draws one: any true label is a right next word. Evaluation asks for the stored
    order; `truth/labels` holds them one by one.
    """

    name = "audio_tagging"
    about = "name everything that sounds in a clip"
    dataset = "audio_tags"
    prompts = "audio_tagging"
    fields = ("labels",)
    score = "audio_tagging"

    def items(self, record: Record) -> tf.Tensor:
        return tf.zeros([tf.cast(tf.size(_labels(record)) > 0, tf.int32)], tf.int32)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        labels = _labels(record)
        ordered = shuffle(labels, draws[DRAW_TARGET]) if setting.training else labels
        target = tf.strings.reduce_join(ordered, separator=", ")
        return Texts({}, target, target[None], tf.constant(0, tf.int64), truth={"labels": labels})


def _labels(record: Record) -> tf.Tensor:
    """string [n]: the labels that say something, each once."""
    labels = clean(record["labels"])
    distinct, _ = tf.unique(tf.boolean_mask(labels, tf.strings.length(labels) > 0))
    return distinct


TASKS = (AudioTagging(),)
