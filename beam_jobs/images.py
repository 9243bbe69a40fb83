"""Checks an image file: what it is, how large, and that it decodes to the end; says which bytes a dataset stores.

The bytes are kept as they came; re-encoding would lose quality and cost ten times the time. Two kinds of image are
encoded again: one that EXIF says is stored turned, for nothing later reads that mark, and one above `max_side`. The
header is judged before anything is decoded, so a decompression bomb is refused at the price of reading its first bytes.
"""

from __future__ import annotations

import dataclasses
import io
import warnings
from typing import Any

from beam_jobs.dead_letters import BadRecord, about
from beam_jobs.quality import looks
from beam_jobs.quality.hashes import DRAFT, Look, hash_of

FORMATS = ("JPEG", "PNG")
MODES = {"JPEG": ("L", "RGB"), "PNG": ("L", "RGB", "RGBA", "LA", "P", "1")}
# Of images that are turned, and of those that are scaled down; both without chroma subsampling.
QUALITY = 95
SCALED_QUALITY = 92
_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """Width and height in pixels as stored; `orientation` is the EXIF tag, 1 when upright or absent.

    `look` is there where `looks` are collected.
    """

    width: int
    height: int
    format: str
    mode: str
    orientation: int
    look: Look | None = None

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the image turned as EXIF says."""
        return (self.height, self.width) if self.orientation in range(5, 9) else (self.width, self.height)


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """The bytes that go into a dataset, and the size in pixels of what they decode to."""

    data: bytes
    width: int
    height: int


def stored_image(
    data: bytes, *, max_pixels: int, max_side: int | None = None, size: tuple[int, int] | None = None
) -> StoredImage:
    """Checks an image and returns what a dataset stores of it.

    Args:
      data: the file.
      max_pixels: larger images are refused.
      max_side: a longer side above this is scaled down to it; the image becomes a JPEG of quality 92, RGB or gray.
      size: width and height as annotated, where positions in the image are. One that is stored turned is turned if
        that gives the annotated size, and left as it is if its own size is the annotated one: what was annotated is
        then the raster, not the view. Without a size it is turned if EXIF says so.

    Raises:
      BadRecord: `size_mismatch`, or a reason of `check_image`.
    """
    with about(data):
        facts = check_image(data, max_pixels=max_pixels)
        stored = (facts.width, facts.height)
        if size is not None and size not in (stored, facts.upright):
            raise BadRecord(
                "size_mismatch", f"the file is {stored[0]} x {stored[1]}, annotated as {size[0]} x {size[1]}"
            )
    turn = facts.orientation in range(2, 9) and size in (None, facts.upright) and size != stored
    width, height = facts.upright if turn else stored
    if max_side is not None and max(width, height) > max_side:
        return _scaled(data, max_side=max_side, turn=turn)
    if turn:
        return StoredImage(_turned(data, facts), width, height)
    if facts.look is not None:
        looks.note(data, facts.look)
    return StoredImage(data, width, height)


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
        width, height, mode = image.width, image.height, image.mode
        looks_wanted = looks.wanted()
        try:
            # Every bit of a JPEG is read at an eighth of its size too, so damage is found as well; it takes 0.6 of the
            # time of all pixels. At a quarter, for the report, it takes a tenth more.
            image.draft("L", DRAFT if looks_wanted else (1, 1))
            image.load()
            orientation = int(image.getexif().get(_ORIENTATION, 1))
        except (OSError, ValueError, SyntaxError, TypeError, EOFError, MemoryError) as e:
            raise BadRecord("undecodable", f"{type(e).__name__}: {e}") from e
    if image.format == "PNG" and not png_ends(data):
        raise BadRecord("undecodable", "the PNG is cut short: its end chunk is missing")
    look = Look(width, height, f"{image.format} {mode}", hash_of(image)) if looks_wanted else None
    return ImageFacts(width, height, image.format, mode, orientation, look)


def png_ends(data: bytes) -> bool:
    """Whether a PNG has its last chunk; without it Pillow decodes, but TensorFlow, which reads datasets, does not."""
    end = data.rfind(b"IEND")
    return end >= 0 and len(data) >= end + 8


def _turned(data: bytes, facts: ImageFacts) -> bytes:
    """The image turned as EXIF says, in its format."""
    from PIL import Image, ImageOps

    settings = {"quality": QUALITY, "subsampling": 0} if facts.format == "JPEG" else {}
    return _encoded(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), facts.format, **settings)


def _scaled(data: bytes, *, max_side: int, turn: bool) -> StoredImage:
    from PIL import Image, ImageOps

    image: Image.Image = Image.open(io.BytesIO(data))
    if turn:
        image = ImageOps.exif_transpose(image)
    # As TensorFlow would decode it: alpha is left out, a palette becomes its colours.
    image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    ratio = max_side / max(image.size)
    width, height = (max(1, round(side * ratio)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return StoredImage(_encoded(image, "JPEG", quality=SCALED_QUALITY, subsampling=0), width, height)


def _encoded(image: Any, format: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    # Nothing of the file's metadata goes along.
    image.save(buffer, format, **settings)
    return buffer.getvalue()
