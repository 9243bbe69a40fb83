"""Records written by hand, and what stage 1 makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tests.tiny.scenes import encoded
from uio2.tasks import locations
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import NUM_DRAWS, Setting, Task, most_tokens, preprocessor

CLASSES = ("Dog", "cat", "traffic light")
EVERYWHERE = [0.0, 0.0, 1.0, 1.0]


def example(task: Task, record: Mapping[str, Any], *, item: int = 0, training: bool = False,
            draws: Sequence[float] = (0.0,) * NUM_DRAWS, tokens: Callable[[str], int] = most_tokens,
            **settings: Any) -> dict[str, Any]:  # fmt: skip
    """One example of a task, numpy values and texts as str, image files as bytes; `settings` are of the recipe."""
    setting = Setting(RegisterSpec(**settings), classes=CLASSES, tokens=tokens, training=training)
    found = preprocessor(task, setting=setting)(record, tf.constant(item), tf.constant(draws, tf.float32))
    return {key: _plain(value.numpy()) for key, value in found.items()}


def count(task: Task, record: Mapping[str, Any]) -> int:
    """How many things of a record the task can ask about."""
    evaluated = len(task.eval_items(record, RegisterSpec()))
    assert bool(evaluated) == bool(len(task.items(record)))
    return evaluated


def picture(height: int = 60, width: int = 100, seed: int = 0) -> np.ndarray:
    """uint8 [h, w, 3], smooth: a resize changes little."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([x * 200 + 20, y * 200 + 30, np.full_like(x, 40 + 10 * seed)], axis=-1).astype(np.uint8)


def record(pixels: np.ndarray | None = None, **fields: Any) -> dict[str, Any]:
    """A record about one image (PNG, so that pixels survive)."""
    image = encoded(picture() if pixels is None else pixels)
    return {"image": tf.constant(image), "image/id": tf.constant(7, tf.int64), **fields}


def objects(boxes: Sequence[Sequence[float]], labels: Sequence[int] | None = None, *, crowd: Sequence[int] = (),
            **more: Any) -> dict[str, Any]:  # fmt: skip
    """`objects` of a record; boxes y1, x1, y2, x2 in 0..1, `crowd` the rows that are crowds, `more` further columns."""
    n = len(boxes)
    return {
        "bbox": tf.reshape(tf.constant(boxes, tf.float32), [n, 4]),
        "label": tf.constant(labels or [0] * n, tf.int64, shape=[n]),
        "id": tf.range(10, 10 + n, dtype=tf.int64),
        "area": tf.range(n, dtype=tf.int64),
        "is_crowd": tf.constant([row in crowd for row in range(n)], tf.bool, shape=[n]),
        **more,
    }


def source_boxes(text: str, info: Sequence[float], *, size: tuple[int, int] = (384, 384)) -> np.ndarray:
    """float64 [n, 4]: the boxes of a text in source pixels."""
    found = [locations.undo_box(box, image_info=info) for box in locations.parse_boxes(text, size=size)]
    return np.array(found).reshape(-1, 4)


def without_locations(text: str) -> str:
    """The words between the location pieces, each run of pieces as `@`."""
    return re.sub(r"(<extra_id_\d+> ?)+", "@ ", text).strip()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value if value.startswith(b"\x89PNG") else value.decode()
    return [v.decode() for v in value] if isinstance(value, np.ndarray) and value.dtype == object else value
