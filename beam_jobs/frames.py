"""What becomes of the frames of a clip, wherever they come from: how many, how large, JPEG."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

from PIL import Image

from beam_jobs.dead_letters import BadRecord


@dataclasses.dataclass(frozen=True)
class FrameSettings:
    """Fields of `VideoSpec` by the same names."""

    num_frames: int
    max_side: int
    frame_rate: float
    jpeg_quality: int
    max_seconds: float
    max_pixels: int


def check_length(seconds: float, settings: FrameSettings) -> None:
    """Raises BadRecord `too_long` above `max_seconds`."""
    if seconds > settings.max_seconds:
        raise BadRecord("too_long", f"{seconds:.1f} s is above max_seconds = {settings.max_seconds}")


def scaled_size(size: tuple[int, int], settings: FrameSettings) -> tuple[int, int]:
    """Width and height of a frame that is no longer than `max_side`, pixels."""
    scale = min(1.0, settings.max_side / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def scaled(image: Image.Image, settings: FrameSettings) -> Image.Image:
    """The image as RGB, scaled down to `max_side` where it is larger."""
    target = scaled_size(image.size, settings)
    image = image.convert("RGB")
    return image if target == image.size else image.resize(target, Image.Resampling.LANCZOS)


def jpegs(images: Sequence[Image.Image], settings: FrameSettings, original: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """The images as JPEG, scaled down to `max_side`; the original bytes of one that is fit already.

    Raises:
      BadRecord: `frame_sizes` for images of several sizes.
    """
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise BadRecord("frame_sizes", f"frames of {len(sizes)} sizes: {sorted(sizes)[:3]}")
    found = []
    for number, image in enumerate(images):
        if original and image.format == "JPEG" and scaled_size(image.size, settings) == image.size:
            found.append(original[number])
            continue
        buffer = io.BytesIO()
        scaled(image, settings).save(buffer, "JPEG", quality=settings.jpeg_quality)
        found.append(buffer.getvalue())
    return tuple(found)
