"""Image captioning."""

from __future__ import annotations

from uio2.tasks.caption_family import CaptionTask
from uio2.tasks.lazy import tf
from uio2.tasks.task import Record, clean


class Captioning(CaptionTask):
    """One example per image; images without captions are passed over."""

    name = "image_caption_coco_2017"
    about = "describe a picture"
    dataset = "coco"
    prompts = "image_captioning"
    fields = ("captions/text",)

    def captions(self, record: Record) -> tf.Tensor:
        return clean(record["captions"]["text"])


class ImageTextCaptioning(Captioning):
    """The same of images with texts of any origin."""

    name = "image_caption"
    dataset = "image_text"
    fields = ("texts",)

    def captions(self, record: Record) -> tf.Tensor:
        return clean(record["texts"])


TASKS = (Captioning(), ImageTextCaptioning())
