"""Audio generation: one of a clip's captions is asked for, a segment of the clip is the answer."""

from __future__ import annotations

from uio2.tasks.audio_family import CODE, SoundingTask, sounding_segments
from uio2.tasks.draws import pick
from uio2.tasks.lazy import tf
from uio2.tasks.task import DRAW_TARGET, Record, Setting, Texts, clean


class AudioGeneration(SoundingTask):
    """Any segment that sounds and any caption in training; the first of each in evaluation."""

    name = "audio_generation"
    about = "make a sound that fits a description"
    prompts = "audio_generation"
    fields = ("captions", "audio")
    score = ""

    def items(self, record: Record) -> tf.Tensor:
        segments = sounding_segments(record["audio"], every=CODE)
        return tf.cond(tf.size(_captions(record)) > 0, lambda: segments, lambda: segments[:0])

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        captions = _captions(record)
        caption = pick(captions, draws[DRAW_TARGET]) if setting.training else captions[0]
        return Texts({"caption": caption}, tf.constant(""), captions, tf.cast(item, tf.int64))


def _captions(record: Record) -> tf.Tensor:
    captions = clean(record["captions"])
    return tf.boolean_mask(captions, tf.strings.length(captions) > 0)


TASKS = (AudioGeneration(),)
