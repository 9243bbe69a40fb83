"""Video captioning."""

from __future__ import annotations

from uio2.tasks.caption_family import CaptionTask
from uio2.tasks.lazy import tf
from uio2.tasks.task import Record
from uio2.tasks.video_family import VideoTask, where_seen


class VideoCaptioning(CaptionTask, VideoTask):
    """One example per clip; clips without captions or frames are passed over."""

    name = "video_captioning"
    about = "describe a video"
    prompts = "video_captioning"
    fields = ("captions", "frames")

    def items(self, record: Record) -> tf.Tensor:
        return where_seen(record, tf.strings.length(self.captions(record)) > 0)


TASKS = (VideoCaptioning(),)
