"""What a model answered, read from a prediction row: boxes, points and tags out of texts, pictures out of files.

A run of four location pieces is a box; runs that are broken are passed over, and what stands between is not asked
after. Everything is brought back to pixels of the source image. In a list of boxes one that covers an earlier one is
dropped (IoU above 0.8, of whatever class), and an earlier box is a surer one: the text holds no other confidence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from uio2.evaluate import truth
from uio2.evaluate.predictions import PredictionsError, TaskPredictions
from uio2.tasks import keypoints
from uio2.tasks.locations import parse_boxes, parse_labelled_boxes, undo_box
from uio2.tasks.metrics.boxes import box_iou, first_box
from uio2.tasks.undo import undo_picture

Box = list[float]
# A text; a box [y1, x1, y2, x2] or boxes in source pixels; Labelled; keypoints; Painted; None for no answer at all.
Answer = Any

SAME_OBJECT = 0.8
FARTHEST_METRES = 10.0
MASK_LEVEL = 0.5


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Boxes with their classes, the surest first."""

    boxes: tuple[Box, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclasses.dataclass(frozen=True)
class Painted:
    """A picture as the answer; read from its file whenever asked for.

    Attributes:
      media: its path as in the row.
      file: where it is.
      target_info: the placement of the source image on its canvas.
    """

    media: str
    file: Path
    target_info: tuple[float, ...]

    def pixels(self) -> Float[np.ndarray, "h w 3"]:
        """0..1, in pixels of the source image."""
        return undo_picture(self._canvas(), image_info=self.target_info) / 255.0

    def shown(self) -> Float[np.ndarray, "h w 3"]:
        """0..1, in pixels of the canvas: the part of it that shows the image."""
        top, left, tall, wide = (int(self.target_info[i]) for i in (0, 1, 9, 10))
        return self._canvas()[top : top + tall, left : left + wide] / 255.0

    def _canvas(self) -> UInt8[np.ndarray, "h w 3"]:
        from PIL import Image

        try:
            with Image.open(self.file) as image:
                return np.asarray(image.convert("RGB"))
        except OSError as error:
            raise PredictionsError(f"{self.file} is no readable picture ({error}); run `uio2 predict` again") from error

    def mask(self) -> np.ndarray:
        """bool [h, w]: where the mean of the channels is above a half."""
        return self.pixels().mean(axis=-1) > MASK_LEVEL

    def depth(self) -> Float[np.ndarray, "h w"]:
        """Metres: white is at the camera, black 10 m away."""
        return (1 - self.pixels().mean(axis=-1)) * FARTHEST_METRES


def text_answers(found: TaskPredictions) -> list[Answer]:
    """The texts as they are."""
    return [row.text for row in found.rows]


def plain_answers(found: TaskPredictions) -> list[Answer]:
    """The text of each row, or the path of its picture or sound."""
    return [row.media or row.text for row in found.rows]


def box_answers(found: TaskPredictions) -> list[Answer]:
    """The first box of each text."""
    size = found.header.input_size
    return [first_box(row.text, image_info=row.image_info, input_size=size) for row in found.rows]


def boxes_answers(found: TaskPredictions) -> list[Answer]:
    """All boxes of each text, [] where there is none."""
    return [boxes_of(row.text, image_info=row.image_info, size=found.header.input_size) for row in found.rows]


def labelled_answers(found: TaskPredictions) -> list[Answer]:
    """All boxes of each text that are followed by a name."""
    return [labelled_of(row.text, image_info=row.image_info, size=found.header.input_size) for row in found.rows]


def keypoint_answers(found: TaskPredictions) -> list[Answer]:
    """A person of each text, float64 [17, 3] of x, y, visibility, or None."""
    return [keypoints_of(row.text, image_info=row.image_info, size=found.header.input_size) for row in found.rows]


def painted_answers(found: TaskPredictions) -> list[Answer]:
    """The picture of each row.

    Raises:
      PredictionsError: a row has no picture, or does not say where the image lies on it.
    """
    answers: list[Answer] = []
    for row in found.rows:
        if row.media is None:
            raise PredictionsError(f"task {row.task!r}, example {row.example_id!r}: media is null, expected a picture")
        answers.append(Painted(row.media, found.folder / row.media, tuple(truth.given(row, "target_info"))))
    return answers


def boxes_of(text: str, *, image_info: Sequence[float], size: tuple[int, int]) -> list[Box]:
    """Boxes [y1, x1, y2, x2] in source pixels, in order of appearance, repetitions dropped.

    Args:
      text: the model's output.
      image_info: the 11 numbers that place the source image on the canvas.
      size: height and width of the canvas.
    """
    found = [undo_box(box, image_info=image_info) for box in parse_boxes(text, size=size)]
    return [found[i] for i in distinct(found)]


def labelled_of(text: str, *, image_info: Sequence[float], size: tuple[int, int]) -> Labelled:
    """Boxes as `boxes_of` with the lower-case names behind them; a box without a name is dropped."""
    canvas, labels = parse_labelled_boxes(text, size=size)
    found = [undo_box(box, image_info=image_info) for box in canvas]
    kept = distinct(found)
    return Labelled(tuple(found[i] for i in kept), tuple(labels[i].lower() for i in kept))


def keypoints_of(text: str, *, image_info: Sequence[float], size: tuple[int, int]) -> Float[np.ndarray, "17 3"] | None:
    """COCO's 17 parts as x, y, visibility (2, or 0 for those the text does not name) in source pixels."""
    person = keypoints.from_text(text, size=size)
    if person is None:
        return None
    for point in person:
        point[1], point[0] = undo_box([point[1], point[0]] * 2, image_info=image_info)[:2]
    return person


def distinct(boxes: Sequence[Box]) -> list[int]:
    """Indices of the boxes that cover no earlier one of these: non-maximum suppression where order is the score."""
    kept: list[int] = []
    for i, box in enumerate(boxes):
        if all(box_iou(box, boxes[k]) <= SAME_OBJECT for k in kept):
            kept.append(i)
    return kept


def confidence(place: int) -> float:
    """A score in 0..1 that falls with the place in a list; equal places of two lists are equally sure."""
    return 1 / (1 + place)


def tags_of(text: str, *, known: Collection[str]) -> list[str]:
    """The tags of a comma-joined list, lower case, each once.

    Names may hold commas themselves ("male speech, man speaking"): the longest run of parts that is a known name is
    one tag.
    """
    names = {name.lower() for name in known}
    parts = [part.strip() for part in text.lower().split(",")]
    tags: list[str] = []
    start = 0
    while start < len(parts):
        ends = range(len(parts), start, -1)
        stop = next((end for end in ends if ", ".join(parts[start:end]) in names), start + 1)
        tags.append(", ".join(parts[start:stop]))
        start = stop
    return list(dict.fromkeys(tag for tag in tags if tag))
