"""Masked audio modelling on any dataset of sound: a fifth of a segment's patches is heard, the rest is made.

`[Audio] [R]`. The hidden share is that of Audio-MAE (arXiv:2207.06405); what counts in the loss and what the task mask
is for: `uio2.tasks.families.denoise_image`. One more dataset is one more line in `TASKS`.
"""

from __future__ import annotations

from uio2.tasks import audio, hiding, image
from uio2.tasks.audio_family import SoundingTask, sound_media, sounding_segments
from uio2.tasks.draws import noise
from uio2.tasks.lazy import tf
from uio2.tasks.task import DRAW_TARGET, Media, Record, Setting, Texts

HIDDEN = 0.8
# Side of a patch of the published audio input, frames.
PATCH = 16


class DenoiseAudio(SoundingTask):
    """Any segment that sounds in training, the first in evaluation."""

    about = "fill in hidden parts of a sound"
    fields = ("audio",)
    takes = ("audio",)
    score = ""

    def items(self, record: Record) -> tf.Tensor:
        return sounding_segments(record["audio"], every=PATCH)

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        recipe, size = setting.recipe, audio.SPECTROGRAM
        segments, masks = audio.log_mel(audio.cut(audio.decode(record["audio"]))[item][None])
        values, mask = segments[0], masks[0]
        patch, code = recipe.audio_patch_size, recipe.audio_target_patch_size
        places = noise(size[0] // patch * (size[1] // patch), draws[DRAW_TARGET])
        hidden = hiding.hidden_pixels(mask, patch=patch, share=HIDDEN, noise=places)
        missing = hiding.hidden_codes(hidden, seen=None, made=None, size=size, patch=code)
        missing &= image.patch_mask(mask[None], patch=code)[0] > 0
        return sound_media(record, {
            "audio_inputs": tf.where(hidden, tf.zeros_like(values), values), "audio_inputs_mask": mask & ~hidden,
            "audio_targets": values, "audio_targets_mask": mask,
            "audio_targets_loss_mask": missing, "audio_targets_task_mask": missing,
        })  # fmt: skip

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        nothing = tf.constant("")
        return Texts({"prompt": nothing}, nothing, nothing[None], tf.cast(item, tf.int64), prefix="[Audio] [R]")


TASKS = (DenoiseAudio(name="denoise_audio", dataset="audio"),)
