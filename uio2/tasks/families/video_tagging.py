"""Video tagging: what is done in a clip, as one of its labels."""

from __future__ import annotations

from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Record, Setting, Texts, clean
from uio2.tasks.video_family import VideoTask, where_seen


class VideoTagging(VideoTask):
    """One example per clip: any of its labels in training; each of them is right in evaluation."""

    name = "video_tagging"
    about = "name what is done in a video"
    prompts = "video_tagging"
    fields = ("labels", "frames")
    score = "classification"

    def items(self, record: Record) -> tf.Tensor:
        return where_seen(record, tf.strings.length(clean(record["labels"])) > 0)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        labels = clean(record["labels"])
        return Texts({}, labels[item], tf.gather(labels, self.items(record)), tf.constant(0, tf.int64))


TASKS = (VideoTagging(),)
