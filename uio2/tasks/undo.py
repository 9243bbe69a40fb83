"""A generated picture back in the pixels of the source image. Light: numpy only.

Texts of boxes are undone in `uio2.tasks.locations`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped


def undo_picture(pixels: Shaped[np.ndarray, "H W *c"], *, image_info: Sequence[float]) -> Shaped[np.ndarray, "h w *c"]:
    """The part of a target canvas that shows the image, at the source image's size, by the nearest pixel.

    Args:
      pixels: the whole canvas.
      image_info: the 11 numbers of `uio2.tasks.image` for that canvas.

    Raises:
      ValueError: the image was cropped: what lies outside was never painted.
    """
    if image_info[7] or image_info[8]:
        raise ValueError(
            f"image_info has crop offsets {image_info[7:9]}; a picture is only undone on an uncropped image"
        )
    top, left, height, width, tall, wide = (int(image_info[i]) for i in (0, 1, 3, 4, 9, 10))
    inside = np.asarray(pixels)[top : top + tall, left : left + wide]
    rows = (np.arange(height) + 0.5) * inside.shape[0] / height
    columns = (np.arange(width) + 0.5) * inside.shape[1] / width
    return inside[rows.astype(int)[:, None], columns.astype(int)[None]]
