"""Video question answering: one question about a clip and its sound, a short answer."""

from __future__ import annotations

from uio2.tasks.draws import pick
from uio2.tasks.lazy import tf
from uio2.tasks.task import DRAW_TARGET, Record, Setting, Texts, clean
from uio2.tasks.video_family import VideoTask, where_seen


class VideoQa(VideoTask):
    """One example per question that has an answer; any of several in training, each is right in evaluation."""

    name = "video_qa"
    about = "answer a question about a video"
    prompts = "video_qa"
    fields = ("qa/question", "qa/answers", "frames")
    score = "exact_match"

    def items(self, record: Record) -> tf.Tensor:
        answered = tf.reduce_any(tf.strings.length(_clean_all(record["qa"]["answers"])) > 0, axis=1)
        asked = tf.strings.length(clean(record["qa"]["question"])) > 0
        return where_seen(record, asked & answered)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        answers = clean(record["qa"]["answers"][item])
        answers = tf.boolean_mask(answers, tf.strings.length(answers) > 0)
        target = pick(answers, draws[DRAW_TARGET]) if setting.training else answers[0]
        question = clean(record["qa"]["question"][item])
        return Texts({"question": question}, target, answers, tf.cast(item, tf.int64))


def _clean_all(texts: tf.RaggedTensor) -> tf.RaggedTensor:
    """`clean` of every text of lists."""
    return texts.with_flat_values(clean(texts.flat_values))


TASKS = (VideoQa(),)
