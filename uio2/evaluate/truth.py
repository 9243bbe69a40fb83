"""What answers are scored against beyond texts and one box: the `truth` of a prediction row.

Stage 1 gives it by name (`Texts.truth`, the families say which): boxes float [n, 4] as y1, x1, y2, x2 and keypoints
[n, 17, 3] as x, y, visibility, both in source pixels; labels, strings [n]; mask, depth and normals, PNG files of the
source's size; target_info, the 11 numbers that place the source image on the canvas of target pictures. In JSON numbers
and texts are themselves and bytes that are no text are `{"base64": ...}`.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from uio2.evaluate.predictions import Prediction, PredictionsError
from uio2.tasks.metrics.normals import NormalMap

DECIMALS = 6
MILLIMETRES = 1000.0
MASK_LEVEL = 127
UNKNOWN_NORMAL = 128


def to_json(value: Any) -> Any:
    """A value of stage 1 (numbers, bytes, lists of them) as JSON; floats are rounded so that their text is short."""
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, float):
        return round(value, DECIMALS)
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:  # an encoded picture: a PNG opens with a byte that no text holds
        return {"base64": base64.b64encode(value).decode("ascii")}


def given(row: Prediction, name: str) -> Any:
    """The JSON value of a name.

    Raises:
      PredictionsError: the row has none.
    """
    if name not in row.truth:
        raise PredictionsError(
            f"task {row.task!r}, example {row.example_id!r}: truth has no {name!r} (it has {sorted(row.truth)}); its "
            "family must give it in Texts.truth, then run `uio2 predict` again"
        )
    return row.truth[name]


def boxes(row: Prediction, name: str = "boxes") -> list[list[float]]:
    """[n, 4]."""
    return [[float(v) for v in box] for box in given(row, name)]


def keypoints(row: Prediction) -> list[np.ndarray]:
    """n persons of float64 [17, 3]."""
    return [np.asarray(person, np.float64) for person in given(row, "keypoints")]


def mask(row: Prediction) -> Bool[np.ndarray, "h w"]:
    """The mask."""
    return _picture(row, "mask", mode="L") > MASK_LEVEL


def depth(row: Prediction) -> Float[np.ndarray, "h w"]:
    """Metres, 0 where nothing was measured."""
    return _picture(row, "depth") / MILLIMETRES


def normals(row: Prediction) -> NormalMap:
    """Colours, and where they are known."""
    rgb = _picture(row, "normals", mode="RGB")
    return NormalMap(rgb, (rgb != UNKNOWN_NORMAL).any(axis=-1))


def _picture(row: Prediction, name: str, *, mode: str = "") -> np.ndarray:
    from PIL import Image

    value = given(row, name)
    try:
        with Image.open(io.BytesIO(base64.b64decode(value["base64"], validate=True))) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except (TypeError, KeyError, ValueError, OSError) as error:
        raise PredictionsError(
            f"task {row.task!r}, example {row.example_id!r}: truth {name!r} is no picture ({error!r}), expected a PNG"
        ) from error
