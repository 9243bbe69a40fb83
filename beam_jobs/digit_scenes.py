"""Scenes of handwritten digits on a small canvas: the embedded default's raw material.

A scene holds one to three real digits (UCI optical digits, 8x8, from scikit-learn), each enlarged, tinted
and placed without overlap on a noisy dark canvas. Digits of one scene differ in colour and in class, so
"the red digit" and "the 7" each name exactly one of them. Corners and sizes fall on a coarse grid, which leaves
a few dozen location tokens in use: enough to be a real localisation task, few enough to learn in minutes.
"""

from __future__ import annotations

import dataclasses

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 70, 60),
    "green": (70, 225, 80),
    "blue": (90, 130, 255),
    "yellow": (250, 225, 60),
    "white": (245, 245, 245),
}
DIGIT_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Placed:
    """One digit in a scene; pixel box with exclusive ends."""

    digit: int
    colour: str
    top: int
    left: int
    size: int
    source: int


@dataclasses.dataclass(frozen=True)
class Scene:
    """`image`: uint8 [height, width, 3]; `objects` in the order they were placed."""

    image: np.ndarray
    objects: tuple[Placed, ...]


@dataclasses.dataclass(frozen=True)
class SceneStyle:
    """How scenes look; lengths in pixels.

    Attributes:
      canvas: side of the square image.
      sizes: sides a digit may have.
      grid: corners are multiples of this.
      min_digits, max_digits: how many digits a scene asks for; fewer are placed when they do not fit.
      noise: standard deviation of the background noise, in 0..255.
    """

    canvas: int = 96
    sizes: tuple[int, ...] = (28, 32, 36)
    grid: int = 4
    min_digits: int = 1
    max_digits: int = 3
    noise: float = 6.0


def load_digit_images() -> tuple[np.ndarray, np.ndarray]:
    """The 1797 scanned digits: images float32 [n, 8, 8] in 0..1 and labels int [n]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images / 16.0).astype(np.float32), bunch.target.astype(int)


def split_sources(labels: np.ndarray, *, validation_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the digits for train and for validation: disjoint, with equal class shares."""
    rng = np.random.default_rng(seed)
    train: list[int] = []
    validation: list[int] = []
    for digit in range(DIGIT_CLASSES):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        cut = max(1, round(len(rows) * validation_fraction))
        validation.extend(rows[:cut])
        train.extend(rows[cut:])
    return np.sort(np.array(train)), np.sort(np.array(validation))


def _enlarge(image: np.ndarray, side: int) -> np.ndarray:
    """Bilinear [8, 8] -> [side, side], half-pixel centres."""
    n = image.shape[0]
    at = np.clip((np.arange(side) + 0.5) * n / side - 0.5, 0, n - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, n - 1)
    weight = (at - low).astype(np.float32)
    rows = image[low] * (1 - weight)[:, None] + image[high] * weight[:, None]
    return rows[:, low] * (1 - weight)[None] + rows[:, high] * weight[None]


def _place(
    rng: np.random.Generator, style: SceneStyle, boxes: list[tuple[int, int, int]]
) -> tuple[int, int, int] | None:
    for _ in range(60):
        size = int(rng.choice(style.sizes))
        top, left = (int(v) * style.grid for v in rng.integers(0, (style.canvas - size) // style.grid + 1, 2))
        if all(top >= t + s or t >= top + size or left >= x + s or x >= left + size for t, x, s in boxes):
            return top, left, size
    return None


def compose(
    rng: np.random.Generator, *, images: np.ndarray, labels: np.ndarray, pool: np.ndarray, style: SceneStyle
) -> Scene:
    """Draws one scene.

    Args:
      rng: the only source of randomness.
      images: float32 [n, 8, 8] in 0..1.
      labels: int [n].
      pool: indices into `images` this scene may use (one split's digits).
      style: how it looks.
    """
    count = int(rng.integers(style.min_digits, style.max_digits + 1))
    digits = rng.permutation(DIGIT_CLASSES)[:count]
    colours = rng.permutation(list(COLOURS))[:count]
    background = rng.uniform(10, 50)
    canvas = rng.normal(background, style.noise, (style.canvas, style.canvas, 3)).astype(np.float32)
    placed: list[Placed] = []
    for digit, colour in zip(digits, colours, strict=True):
        spot = _place(rng, style, [(p.top, p.left, p.size) for p in placed])
        source = int(rng.choice(pool[labels[pool] == digit]))
        if spot is None:
            continue
        top, left, size = spot
        ink = _enlarge(images[source], size)[..., None]
        tint = np.array(COLOURS[str(colour)], np.float32) * rng.uniform(0.8, 1.0)
        patch = canvas[top : top + size, left : left + size]
        canvas[top : top + size, left : left + size] = patch * (1 - ink) + tint * ink
        placed.append(Placed(int(digit), str(colour), top, left, size, source))
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), tuple(placed))
