"""Pictures of the examples a report shows, as data URIs, taken from the built dataset's own bytes."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Collection, Mapping

from uio2.evaluate.datasets import examples, open_dataset
from uio2.pipeline.artifact import Artifact

JPEG_QUALITY = 82


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image ready for a page.

    Attributes:
      uri: `data:image/...;base64,...`.
      width, height: of the source image in pixels, the space that boxes live in; the data may be smaller.
    """

    uri: str
    width: int
    height: int


def picture_of(encoded: bytes, *, max_side: int) -> Picture:
    """The image shrunk to `max_side`; a JPEG or PNG that is small enough keeps its own bytes."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        width, height = image.size
        kind = image.format
        if max(width, height) > max_side or kind not in ("JPEG", "PNG"):
            small = image.convert("RGB")
            small.thumbnail((max_side, max_side))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=JPEG_QUALITY)
            encoded, kind = buffer.getvalue(), "JPEG"
    data = base64.b64encode(encoded).decode("ascii")
    return Picture(f"data:image/{kind.lower()};base64,{data}", width, height)


def load_pictures(
    inputs: Mapping[str, Artifact], *, wanted: Mapping[str, Mapping[str, Collection[int]]], max_side: int
) -> dict[tuple[str, int], Picture]:
    """Pictures by dataset and image id.

    Args:
      inputs: datasets by name; one that is not given has no pictures.
      wanted: dataset -> split -> image ids.
      max_side: see `picture_of`.

    An id that its dataset does not hold is left out.
    """
    found: dict[tuple[str, int], Picture] = {}
    for name, splits in sorted(wanted.items()):
        if name not in inputs:
            continue
        builder = open_dataset(inputs, name=name, why="the report's pictures")
        for split, ids in sorted(splits.items()):
            missing = set(ids)
            if "image" not in builder.info.features or split not in builder.info.splits:
                continue
            for example in examples(builder, split=split, features={"image": True, "image/id": True}):
                image_id = int(example["image/id"])
                if image_id in missing:
                    found[name, image_id] = picture_of(example["image"], max_side=max_side)
                    missing.discard(image_id)
                    if not missing:
                        break
    return found
