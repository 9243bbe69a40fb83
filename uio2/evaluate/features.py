"""Features of pictures and texts, by which made pictures are measured; the extractor is the user's to give.

`ScoreSpec.features` names it: nothing for the small one here, `package.module:function`, or a file that `jax.export`
wrote (its content enters the recipe; what a name stands for is the user's to keep). It takes float32 pictures
[n, size, size, 3] in 0..1 and gives [n, d]. `ScoreSpec.text_features` is a function by name from a list of n texts to
[n, d] in the same space.

The small extractor is colours and edges on a grid. It tells noise from pictures and a run from another, needs no
weights, and is NOT comparable to published FID or KID, which are made with Inception v3.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from uio2.pipeline.stage import StageError

Pictures = Float[np.ndarray, "n s s 3"]
Extract = Callable[[Pictures], Float[np.ndarray, "n d"]]
BATCH = 32
GRID, DIRECTIONS = 4, 4


def small_features(pictures: Pictures) -> Float[np.ndarray, "n 112"]:
    """Mean colour (brightness and two differences) and strength of edges in four directions, in each of 16 cells."""
    values = np.asarray(pictures, np.float64)
    red, green, blue = np.moveaxis(values, -1, 0)
    brightness = (red + green + blue) / 3
    colours = [brightness, red - green, (red + green) / 2 - blue]
    up, across = np.gradient(brightness, axis=(1, 2))
    angle = np.floor(np.mod(np.arctan2(up, across), np.pi) / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    strength = np.hypot(up, across)
    edges = [np.where(angle == d, strength, 0.0) * 8 for d in range(DIRECTIONS)]
    return np.concatenate([_cells(layer) for layer in (*colours, *edges)], axis=1)


def _cells(layer: Float[np.ndarray, "n s s"]) -> Float[np.ndarray, "n 16"]:
    rows = [part.mean(axis=1) for part in np.array_split(layer, GRID, axis=1)]
    cells = [cell.mean(axis=1) for row in rows for cell in np.array_split(row, GRID, axis=1)]
    return np.stack(cells, axis=1)


def extractor(name: str) -> Extract:
    """The extractor of a name.

    Raises:
      StageError: there is none.
    """
    if not name:
        return small_features
    if Path(name).is_file():
        from jax import export

        try:
            exported = export.deserialize(bytearray(Path(name).read_bytes()))
        except Exception as error:
            raise StageError(f"ScoreSpec.features {name!r} is not what jax.export wrote ({error})") from error
        return lambda pictures: np.asarray(exported.call(np.asarray(pictures, np.float32)))
    return named_function(name, setting="features")


def named_function(name: str, *, setting: str) -> Callable[..., Any]:
    """The function behind `package.module:function`.

    Raises:
      StageError: there is none.
    """
    module, colon, function = name.partition(":")
    try:
        if not colon:
            raise ImportError("no colon in it")
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise StageError(
            f"ScoreSpec.{setting} is {name!r} ({error}); expected package.module:function, or a file of jax.export"
        ) from error


def extracted(extract: Extract, pictures: Iterable[np.ndarray], *, size: int) -> Float[np.ndarray, "n d"]:
    """Features of pictures (float [h, w, 3] in 0..1, of any size), made square in batches of one shape.

    Raises:
      StageError: the extractor gives something else than a row for each.
    """
    found = []
    for batch in _batches(pictures):
        rows = len(batch)
        square = np.stack([squared(picture, size=size) for picture in batch])
        # The last batch is filled up, for an exported function takes one shape.
        values = np.asarray(extract(np.concatenate([square, np.repeat(square[:1], BATCH - rows, axis=0)])))
        if values.ndim != 2 or len(values) != BATCH:
            raise StageError(
                f"ScoreSpec.features gave shape {values.shape} for {BATCH} pictures; expected a row for each"
            )
        found.append(values[:rows])
    return np.concatenate(found)


def squared(picture: Float[np.ndarray, "h w 3"], *, size: int) -> Float[np.ndarray, "s s 3"]:
    """The middle square of a picture, resized with antialiasing."""
    from PIL import Image

    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = picture[top : top + side, left : left + side]
    image = Image.fromarray(np.rint(np.clip(middle, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255


def _batches(pictures: Iterable[np.ndarray]) -> Iterator[Sequence[np.ndarray]]:
    batch: list[np.ndarray] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
