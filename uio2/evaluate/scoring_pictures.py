"""Scores of made pictures against the real ones of their dataset, by features (`uio2.evaluate.features`)."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from uio2.evaluate.answers import Painted
from uio2.evaluate.features import extracted, extractor, named_function
from uio2.evaluate.predictions import Prediction, PredictionsError
from uio2.evaluate.scoring import Scores
from uio2.tasks.metrics.generation import generation_results
from uio2.tasks.metrics.result import Resampling


@dataclasses.dataclass(frozen=True)
class RealPictures:
    """Where the real pictures are, and how pictures are measured.

    Attributes:
      dataset: a TFDS directory.
      split: of it.
      features, text_features, size: as in `ScoreSpec`.
    """

    dataset: Path
    split: str
    features: str
    text_features: str
    size: int


def score_pictures(
    rows: Sequence[Prediction], answers: Sequence[Painted], *, real: RealPictures, resampling: Resampling
) -> Scores:
    """`frechet`, `kernel`, `likeness` and, with features of texts, `text_likeness`; likeness is an example's own.

    Raises:
      PredictionsError: the dataset does not hold the picture of a row.
    """
    extract = extractor(real.features)
    true = _true_features(rows, real=real)
    texts = None
    if real.text_features:
        texts = np.asarray(named_function(real.text_features, setting="text_features")([_asked(row) for row in rows]))
    made = extracted(extract, (answer.shown() for answer in answers), size=real.size)
    results = generation_results(
        made, real=np.stack([true[row.image_id] for row in rows]), ids=[row.example_id for row in rows], texts=texts,
        resampling=resampling,
    )  # fmt: skip
    return Scores.of(results)


def _asked(row: Prediction) -> str:
    """What was to be painted in words: the target or question if there is one, else the prompt."""
    return next(filter(None, (*row.targets[:1], row.question)), row.prompt)


def _true_features(rows: Sequence[Prediction], *, real: RealPictures) -> dict[int, np.ndarray]:
    """Features of each picture that a row is about, read once, in stored order."""
    import tensorflow_datasets as tfds
    from PIL import Image

    from uio2.evaluate.datasets import examples

    wanted = {row.image_id for row in rows}
    builder = tfds.builder_from_directory(str(real.dataset))
    order: list[int] = []

    def pictures() -> Iterator[np.ndarray]:
        for example in examples(builder, split=real.split, features={"image": True, "image/id": True}):
            number = int(example["image/id"])
            if number in wanted:
                wanted.discard(number)
                order.append(number)
                with Image.open(io.BytesIO(example["image"])) as image:
                    yield np.asarray(image.convert("RGB"), np.float32) / 255
            if not wanted:
                return
        raise PredictionsError(
            f"split {real.split!r} of {real.dataset} lacks {len(wanted)} pictures, among them image {min(wanted)}; "
            "give `score` the dataset that was predicted on"
        )

    values = extracted(extractor(real.features), pictures(), size=real.size)
    return dict(zip(order, values, strict=True))
