"""Patches back to pictures: the inverse of normalising and cutting, and small PNGs of masks to lay over them.

A picture on a page costs at most about 70 KiB: PNG while that is small (exact to 1/255), else JPEG.
"""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from uio2.tasks import audio, image
from uio2.tasks.visualize.sound import silent_frames

PNG_LIMIT = 48 * 1024
JPEG_QUALITY = 88
MAX_SIDE = 640
# RGBA of the cells of a mask: nothing there, there but hidden, not counted in the loss.
ABSENT, HIDDEN, UNCOUNTED = (122, 127, 135, 185), (64, 120, 255, 120), (230, 140, 20, 80)
# Quiet to loud; between them the colours are mixed.
_SOUND_COLOURS = (
    (8, 10, 28), (45, 24, 92), (126, 34, 120), (206, 58, 92), (247, 128, 62), (253, 202, 98), (252, 246, 214),
)  # fmt: skip
_QUIETEST = float(np.log(1e-5))


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Patches put where they belong.

    Attributes:
      values: float32 [height, width, channels], still normalised.
      cells: int [rows, columns]: 2 a patch the model sees, 1 one that is masked, 0 one that is not in the batch.
    """

    values: Float[np.ndarray, "height width channels"]
    cells: Int[np.ndarray, "rows columns"]

    @property
    def seen(self) -> int:
        """Patches the model sees."""
        return int((self.cells == 2).sum())


def assemble(patches: Float[np.ndarray, "n p"], *, mask: Int[np.ndarray, " n"], positions: Int[np.ndarray, " n"],
             size: tuple[int, int], patch: int) -> Canvas:  # fmt: skip
    """The canvas of these patches.

    Args:
      patches: values in (row, column, channel) order.
      mask: 1 where the model sees the patch.
      positions: row-major places in the grid.
      size: height and width of the canvas.
      patch: side of a patch.
    """
    rows, columns = size[0] // patch, size[1] // patch
    channels = patches.shape[1] // patch**2
    blocks = np.zeros((rows * columns, patch, patch, channels), np.float32)
    cells = np.zeros(rows * columns, np.int32)
    blocks[positions] = patches.reshape(-1, patch, patch, channels)
    cells[positions] = 1 + (mask > 0)
    whole = blocks.reshape(rows, columns, patch, patch, channels).transpose(0, 2, 1, 3, 4)
    return Canvas(whole.reshape(*size, channels), cells.reshape(rows, columns))


def pixels(canvas: Canvas) -> UInt8[np.ndarray, "height width 3"]:
    """The picture as it was on the canvas before normalising; patches that are not in the batch are grey."""
    values = canvas.values * np.array(image.CLIP_STD, np.float32) + np.array(image.CLIP_MEAN, np.float32)
    side = canvas.values.shape[0] // canvas.cells.shape[0]
    there = np.kron(canvas.cells > 0, np.ones((side, side), bool))[..., None]
    return to_uint8(np.where(there, values, 0.5))


def target_pixels(values: Float[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """A target picture (-1..1)."""
    return to_uint8((values + 1) / 2)


def to_uint8(values: Float[np.ndarray, ...]) -> UInt8[np.ndarray, ...]:
    """0..1 as bytes."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def log_mel(canvas: Canvas) -> Float[np.ndarray, "time frequency"]:
    """The log-mel values of an audio input."""
    return canvas.values[..., 0] * audio.INPUT_SCALE - audio.INPUT_SHIFT


def upright(grid: np.ndarray) -> np.ndarray:
    """[time, frequency] as people look at it: time to the right, high tones on top."""
    return grid.T[::-1]


def spectrogram_uri(values: Float[np.ndarray, "time frequency"]) -> str:
    """A log-mel spectrogram in colours, from the quietest value there can be to its own loudest.

    Digital silence, which is stored as 0 and so between quiet and loud, is drawn as quiet.
    """
    values = np.where(silent_frames(values)[:, None], _QUIETEST, values)
    loudest = max(float(values.max()), _QUIETEST + 1)
    levels = to_uint8((upright(values) - _QUIETEST) / (loudest - _QUIETEST))
    picture = Image.fromarray(levels).convert("P")
    picture.putpalette(_palette())
    return _uri(_saved(picture, "PNG"), "image/png")


def _palette() -> bytes:
    stops = np.array(_SOUND_COLOURS, float)
    at = np.linspace(0, len(stops) - 1, 256)
    mixed = np.stack([np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)], 1)
    return mixed.round().astype(np.uint8).tobytes()


def picture_uri(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    """A picture as a data URI, exact where that is small."""
    found = Image.fromarray(picture)
    if max(found.size) > MAX_SIDE:
        found.thumbnail((MAX_SIDE, MAX_SIDE))
    data = _saved(found, "PNG")
    if len(data) <= PNG_LIMIT:
        return _uri(data, "image/png")
    return _uri(_saved(found, "JPEG", quality=JPEG_QUALITY), "image/jpeg")


def cells_uri(layers: list[tuple[Bool[np.ndarray, "rows columns"], tuple[int, int, int, int]]]) -> str:
    """One pixel per cell, each in the colour of the first layer that holds it; clear where none does."""
    picture = np.zeros((*layers[0][0].shape, 4), np.uint8)
    for cells, colour in reversed(layers):
        picture[cells] = colour
    return _uri(_saved(Image.fromarray(picture), "PNG"), "image/png")


def _saved(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **options)
    return buffer.getvalue()


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
