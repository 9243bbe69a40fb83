"""Masked image modelling on any dataset of pictures: a quarter of the patches is seen, the codes of the rest are made.

`[Image] [R]`. The hidden share is that of masked autoencoders (arXiv:2111.06377). The codes of the hidden places alone
count in the loss: what is seen could be copied. They are the task mask too, with which the model hides them from its
own decoder (`ModelConfig.unk_mask_token`: a hidden code is seen there as "unknown"; `shift_back_input_token`), so that
a hole is not made by going on from the true codes beside it. One more dataset is one more line in `TASKS`.
"""

from __future__ import annotations

from uio2.tasks import hiding, image
from uio2.tasks.draws import noise
from uio2.tasks.lazy import tf
from uio2.tasks.task import DRAW_PIXELS, DRAW_TARGET, Media, Record, Setting, Task, Texts, patch_noise

HIDDEN = 0.75


class DenoiseImage(Task):
    """One example per picture, whole on both canvases (a crop would have to fit the two)."""

    about = "fill in hidden parts of a picture"
    fields = ("image/id",)
    makes = "image"
    score = ""

    def items(self, record: Record) -> tf.Tensor:
        del record
        return tf.zeros([1], tf.int32)

    def media(self, record: Record, item: tf.Tensor, *, draws: tf.Tensor, setting: Setting) -> Media:
        del item
        recipe = setting.recipe
        pixels = tf.io.decode_image(record["image"], channels=3, expand_animations=False)
        source = tf.cast(tf.shape(pixels)[:2], tf.float32)
        size, target = recipe.image_size, recipe.image_target_size
        seen, made = image.place(source, size=size), image.place(source, size=target)
        mask, patch = image.pixel_mask(seen, size=size), recipe.image_patch_size
        places = noise(image.Canvas(size, patch).num_patches, draws[DRAW_TARGET])
        hidden = hiding.hidden_pixels(mask, patch=patch, share=HIDDEN, noise=places)
        target_mask, code = image.pixel_mask(made, size=target), recipe.image_target_patch_size
        missing = hiding.hidden_codes(hidden, seen=seen, made=made, size=target, patch=code)
        missing &= image.patch_mask(target_mask[None], patch=code)[0] > 0
        kept = tf.cast(~hidden, tf.float32)[..., None]
        features = {
            "image_inputs": image.render(pixels, seen, size=size) * kept,
            "image_inputs_mask": mask & ~hidden,
            "image_targets": image.render(pixels, made, size=target),
            "image_targets_mask": target_mask,
            "image_targets_loss_mask": missing,
            "image_targets_task_mask": missing,
            **patch_noise(recipe, draws[DRAW_PIXELS]),
        }
        number = tf.cast(record["image/id"], tf.int64)
        return Media(features, number, tf.strings.as_string(number), seen.info(), tf.zeros(4))

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        nothing = tf.constant("")
        return Texts({"prompt": nothing}, nothing, nothing[None], tf.constant(0, tf.int64), prefix="[Image] [R]")


TASKS = (DenoiseImage(name="denoise_image_coco", dataset="coco"),)
