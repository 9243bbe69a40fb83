"""Finds and reads image files for the builders: names to look for, bytes as they came, facts that were checked."""

from __future__ import annotations

from collections.abc import Sequence

from beam_jobs import sources
from beam_jobs.dead_letters import BadRecord
from beam_jobs.images import StoredImage, stored_image

SUFFIXES = (".jpg", ".jpeg", ".png")


def image_bases(root: str, folders: Sequence[str]) -> list[str]:
    """Folders to look for an image in, likeliest first, the root itself last."""
    names = dict.fromkeys(f for f in folders if f)
    return [*(f"{root.rstrip('/')}/{name}" for name in names), root]


def image_names(image_id: int, file_name: str) -> list[str]:
    """Names a COCO image may go by: as annotated, then as the 2017 and 2014 releases name it."""
    return list(
        dict.fromkeys(
            [
                file_name,
                f"{image_id:012d}.jpg",
                f"COCO_train2014_{image_id:012d}.jpg",
                f"COCO_val2014_{image_id:012d}.jpg",
            ]
        )
    )


def read_file(bases: Sequence[str], names: Sequence[str], *, kind: str, must_exist: bool = True) -> bytes:
    """The bytes of the first of `names` that is a file below one of `bases`.

    Args:
      bases: folders.
      names: paths below them, likeliest first.
      kind: what it is, for the reason: `image` gives `image_missing`.
      must_exist: whether a missing file is a fault.

    Raises:
      BadRecord: `path_escape`, `KIND_missing` or `unreadable`.
    """
    try:
        path = sources.find_file(sources.existing(bases), names)
    except sources.PathEscape as e:
        raise BadRecord("path_escape", str(e)) from e
    except OSError as e:
        raise BadRecord("unreadable", f"{names[0]}: {e.strerror}") from e
    if path is None:
        raise BadRecord(f"{kind}_missing", f"{names[0]} is in no folder of the source", fault=must_exist)
    try:
        return sources.read_bytes(path)
    except OSError as e:
        raise BadRecord("unreadable", f"{names[0]}: {e.strerror}") from e


def read_image(
    bases: Sequence[str],
    names: Sequence[str],
    *,
    max_pixels: int,
    max_side: int | None,
    size: tuple[int, int] | None = None,
    must_exist: bool = True,
) -> StoredImage:
    """What a dataset stores of an image file; see `stored_image`.

    Raises:
      BadRecord: `path_escape`, `image_missing`, `unreadable`, or a reason of `stored_image`.
    """
    data = read_file(bases, names, kind="image", must_exist=must_exist)
    return stored_image(data, max_pixels=max_pixels, max_side=max_side, size=size)
