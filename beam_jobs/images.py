"""Checks an image file without changing it: what it is, how large, and that it decodes to the end.

The bytes are kept as they came; re-encoding would lose quality and cost ten times the time. The header is
judged before anything is decoded, so a decompression bomb is refused at the price of reading its first bytes.
"""

from __future__ import annotations

import dataclasses
import io
import warnings

from beam_jobs.dead_letters import BadRecord

FORMATS = ("JPEG", "PNG")
MODES = {"JPEG": ("L", "RGB"), "PNG": ("L", "RGB", "RGBA", "LA", "P", "1")}
QUALITY = 95
_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """Width and height in pixels as stored; `orientation` is the EXIF tag, 1 when upright or absent."""

    width: int
    height: int
    format: str
    mode: str
    orientation: int


def check_image(data: bytes, *, max_pixels: int) -> ImageFacts:
    """Reads the header, then decodes the whole image.

    Raises:
      BadRecord: with reason `empty_file`, `not_an_image`, `unsupported_format`, `unsupported_mode`,
        `too_many_pixels` or `undecodable`.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise BadRecord("empty_file", "the file has no bytes")
    with warnings.catch_warnings():
        # The limit below is ours; Pillow's own warns at another size.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError as e:
            raise BadRecord("not_an_image", f"starts with {data[:16]!r}") from e
        except Image.DecompressionBombError as e:
            raise BadRecord("too_many_pixels", str(e)) from e
        except (OSError, ValueError, SyntaxError) as e:
            raise BadRecord("undecodable", f"{type(e).__name__}: {e}") from e
        if image.format not in FORMATS:
            raise BadRecord("unsupported_format", f"{image.format}; expected one of {', '.join(FORMATS)}")
        if image.mode not in MODES[image.format]:
            raise BadRecord("unsupported_mode", f"{image.format} of mode {image.mode}")
        if image.width * image.height > max_pixels:
            raise BadRecord("too_many_pixels", f"{image.width} x {image.height} is above max_pixels = {max_pixels}")
        try:
            image.load()
            orientation = int(image.getexif().get(_ORIENTATION, 1))
        except (OSError, ValueError, SyntaxError, TypeError, EOFError, MemoryError) as e:
            raise BadRecord("undecodable", f"{type(e).__name__}: {e}") from e
    if image.format == "PNG" and not png_ends(data):
        raise BadRecord("undecodable", "the PNG is cut short: its end chunk is missing")
    return ImageFacts(image.width, image.height, image.format, image.mode, orientation)


def png_ends(data: bytes) -> bool:
    """Whether a PNG has its last chunk; without it Pillow decodes, but TensorFlow, which reads datasets, does not."""
    end = data.rfind(b"IEND")
    return end >= 0 and len(data) >= end + 8


def upright(data: bytes, facts: ImageFacts) -> bytes:
    """The bytes as they are, or those of the image turned as EXIF says and encoded again in its format.

    Args:
      data: an image that `check_image` passed.
      facts: what it found.
    """
    if facts.orientation not in range(2, 9):
        return data
    from PIL import Image, ImageOps

    turned, buffer = ImageOps.exif_transpose(Image.open(io.BytesIO(data))), io.BytesIO()
    settings = {"quality": QUALITY, "subsampling": 0} if facts.format == "JPEG" else {}
    turned.save(buffer, facts.format, **settings)
    return buffer.getvalue()
