"""Video captioning: any of a clip's captions in training; all of them count in evaluation."""

from __future__ import annotations

from uio2.tasks.lazy import tf
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import Record, Setting, Texts, clean
from uio2.tasks.video_family import VideoTask, where_seen


class VideoCaptioning(VideoTask):
    """One example per clip; clips without captions are passed over."""

    name = "video_captioning"
    about = "describe a video"
    prompts = "video_captioning"
    fields = ("captions", "frames")
    score = "caption"

    def items(self, record: Record) -> tf.Tensor:
        return where_seen(record, tf.strings.length(clean(record["captions"])) > 0)

    def eval_items(self, record: Record, recipe: RegisterSpec) -> tf.Tensor:
        del recipe
        return self.items(record)[:1]

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        captions = clean(record["captions"])
        everything = tf.gather(captions, self.items(record))
        return Texts({}, captions[item], everything, tf.constant(0, tf.int64))


TASKS = (VideoCaptioning(),)
