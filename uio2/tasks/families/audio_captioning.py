"""Audio captioning."""

from __future__ import annotations

from uio2.tasks.audio_family import AudioTask
from uio2.tasks.caption_family import CaptionTask


class AudioCaptioning(CaptionTask, AudioTask):
    """One example per clip; clips without captions are passed over."""

    name = "audio_caption"
    about = "describe a sound"
    prompts = "audio_captioning"
    fields = ("captions",)


TASKS = (AudioCaptioning(),)
