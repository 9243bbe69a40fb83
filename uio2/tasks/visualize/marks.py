"""Boxes and points on the canvas, read from the tokens themselves and from what evaluation knows.

All coordinates are shares of the canvas, (0, 0) at the top left. In a run of location pieces every four are a box; a
run of two is a point. The text behind a run is its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from uio2.tasks.keypoints import COCO_PARTS
from uio2.tasks.locations import EOS_ID, LOCATION_BINS, tokens_to_values
from uio2.tasks.visualize.tokens import Pieces, text_of

MAX_NAME = 40
_BONES = (
    ("left shoulder", "right shoulder"), ("left hip", "right hip"),
    ("left shoulder", "left elbow"), ("left elbow", "left wrist"), ("left shoulder", "left hip"),
    ("left hip", "left knee"), ("left knee", "left ankle"), ("left eye", "left ear"), ("nose", "left eye"),
    ("right shoulder", "right elbow"), ("right elbow", "right wrist"), ("right shoulder", "right hip"),
    ("right hip", "right knee"), ("right knee", "right ankle"), ("right eye", "right ear"), ("nose", "right eye"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Box:
    """A box and where it was found: `prompt`, `target` or `stored`."""

    top: float
    left: float
    bottom: float
    right: float
    role: str
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Point:
    """A named point."""

    y: float
    x: float
    role: str
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Marks:
    """What is drawn over a picture."""

    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()

    def __add__(self, other: Marks) -> Marks:
        return Marks(self.boxes + other.boxes, self.points + other.points)

    @property
    def bones(self) -> list[tuple[Point, Point]]:
        """Lines of a body, where the points are COCO's parts of one."""
        named = {point.name: point for point in reversed(self.points) if point.name in COCO_PARTS}
        return [(named[a], named[b]) for a, b in _BONES if a in named and b in named]


def in_tokens(ids: Sequence[int], *, role: str, vocabulary: Pieces) -> Marks:
    """Boxes and points of a prompt or target; a prompt's are not named, since what follows is only more prompt."""
    boxes: list[Box] = []
    points: list[Point] = []
    for run, rest in _runs(ids, base_size=vocabulary.base_size):
        values = tokens_to_values(run, base_size=vocabulary.base_size)
        name = text_of(rest, vocabulary=vocabulary).strip(" ,.")[:MAX_NAME] if role == "target" else ""
        if len(values) == 2:
            points.append(Point(values[0], values[1], role, name))
        for start in range(0, len(values) - len(values) % 4, 4):
            y1, x1, y2, x2 = values[start : start + 4]
            boxes.append(Box(y1, x1, y2, x2, role, name if start + 4 == len(values) else ""))
    return Marks(tuple(boxes), tuple(points))


def _runs(ids: Sequence[int], *, base_size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Runs of location tokens, each with the tokens up to the next run or the end of its text."""
    run: list[int] = []
    rest: list[int] = []
    for token in ids:
        located = base_size <= token < base_size + LOCATION_BINS
        if run and ((located and rest) or token == EOS_ID):
            yield run, rest
            run, rest = [], []
        if located:
            run.append(token)
        elif run:
            rest.append(token)
    if run:
        yield run, rest


def stored_box(box: Sequence[float] | None, *, image_info: Sequence[float], size: tuple[int, int]) -> Marks:
    """The box scoring compares with (source pixels) where it lies on a canvas of `size` (height, width).

    Args:
      box: y1, x1, y2, x2; None for tasks without one.
      image_info: the 11 numbers of `uio2.tasks.image`.
      size: of the canvas.
    """
    if box is None or not any(box) or not image_info[2]:
        return Marks()
    shift = (image_info[0] - image_info[7], image_info[1] - image_info[8])
    placed = [(value / image_info[2] + shift[n % 2]) / size[n % 2] for n, value in enumerate(box)]
    y1, x1, y2, x2 = (min(max(value, 0.0), 1.0) for value in placed)
    return Marks((Box(y1, x1, y2, x2, "stored"),))
