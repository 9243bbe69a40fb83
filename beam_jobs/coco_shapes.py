"""Keypoints and outlines of COCO annotations: judged when they are read, drawn when they are written.

An outline is a list of polygons, or run lengths `{size: [height, width], counts}` of a crowd; counts are numbers, or
the text that pycocotools packs them into. What is drawn is pycocotools' own raster.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.dead_letters import BadRecord
from beam_jobs.images import StoredImage

KEYPOINTS = 17
NO_POSE = (0.0,) * (3 * KEYPOINTS)


def checked_keypoints(values: Sequence[Any]) -> list[float]:
    """Keypoints of one person: x, y in pixels and visibility, 17 times.

    Raises:
      BadRecord: `bad_keypoints`.
    """
    if len(values) != 3 * KEYPOINTS or not all(_finite(v) for v in values):
        raise BadRecord("bad_keypoints", f"{len(values)} values; expected {3 * KEYPOINTS} finite numbers")
    if any(v not in (0, 1, 2) for v in values[2::3]):
        raise BadRecord("bad_keypoints", f"visibilities {sorted(set(values[2::3]))}; expected 0, 1 or 2")
    return list(values)


def visible(keypoints: Sequence[float]) -> int:
    """How many keypoints are labelled (visibility 1 or 2)."""
    return sum(1 for v in keypoints[2::3] if v > 0)


def outline(segmentation: Any) -> Any:
    """The segmentation as lists of numbers; None where there is none.

    Raises:
      BadRecord: `bad_segmentation`.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        size: Any = segmentation.get("size")
        counts = segmentation.get("counts")
        runs = _unpacked(counts) if isinstance(counts, str) else counts
        if not _whole(size) or len(size) != 2 or not _whole(runs):
            raise BadRecord("bad_segmentation", f"run lengths of size {size!r:.40}; expected whole numbers from 0 up")
        return {"size": size, "counts": runs}
    if not isinstance(segmentation, list):
        raise BadRecord("bad_segmentation", f"{type(segmentation).__name__}; expected polygons or run lengths")
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(_finite, polygon)):
            raise BadRecord("bad_segmentation", f"polygon {polygon!r:.60}; expected x, y of at least three points")
    return segmentation


def fitting(found: Any, *, width: int, height: int) -> Any:
    """The outline if it fits the image.

    Raises:
      BadRecord: `bad_segmentation`.
    """
    if isinstance(found, dict):
        total = sum(found["counts"])
        if found["size"] != [height, width] or total != height * width:
            error = f"run lengths of size {found['size']} that sum to {total}; the image is {[height, width]}"
            raise BadRecord("bad_segmentation", error)
    elif found and max(abs(v) for polygon in found for v in polygon) > 10 * max(width, height):
        raise BadRecord("bad_segmentation", f"a polygon reaches far beyond the {width} x {height} image")
    return found


def scaled(
    objects: Sequence[Mapping[str, Any]], of: Mapping[str, Any], stored: StoredImage
) -> Sequence[Mapping[str, Any]]:
    """Objects whose area and keypoints, in pixels of the annotated image `of`, are those of the stored one."""
    across, down = stored.width / of["width"], stored.height / of["height"]
    if across == down == 1:
        return objects
    factors = (across, down, 1) * KEYPOINTS
    return [
        {
            **o,
            "area": round(o["area"] * across * down),
            "keypoints": [v * f for v, f in zip(o["keypoints"], factors[: len(o["keypoints"])], strict=True)],
        }
        for o in objects
    ]


def mask_png(found: Any, *, width: int, height: int, scaled_to: tuple[int, int] | None = None) -> bytes:
    """A checked outline as an 8-bit PNG of one channel, 255 inside; b"" for None.

    It is drawn in the annotated size, and then brought to the width and height `scaled_to` by nearest pixels.
    """
    if found is None:
        return b""
    from PIL import Image
    from pycocotools import mask

    runs = mask.frPyObjects(found, height, width)
    inside = Image.fromarray(mask.decode(runs if isinstance(found, dict) else mask.merge(runs)) * 255)
    if scaled_to not in (None, inside.size):
        inside = inside.resize(scaled_to, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    inside.save(buffer, "PNG")
    return buffer.getvalue()


def _unpacked(text: str) -> list[int]:
    """Run lengths from their packed text: base 48, five bits a character, each from the third on a difference."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise BadRecord("bad_segmentation", f"packed run lengths hold {character!r}")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise BadRecord("bad_segmentation", "packed run lengths are cut short")
    return runs


def _whole(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(type(v) is int and v >= 0 for v in values)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
