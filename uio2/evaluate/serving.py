"""A registered model that answers requests: what MLflow loads behind `models:/MODEL@champion`.

A request is rows of `text`, what to do, with an `image` or without (base64, a data URI, or a path on this machine) and
with or without a `task`: then the text is the question, the expression, ... that the task's own prompt is filled with.
Each answer is the text and the boxes in it, [y1, x1, y2, x2] in pixels of the image. Nothing is pickled: MLflow calls
`_load_pyfunc` with a file that says where checkpoint, mixture and tokenizer lie, and they are read from there.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uio2.pipeline.stage import UsageError, spec_from_json

MOST_ROWS = 16  # decoded together
PARTS = ("checkpoint", "mixture", "tokenizer")
DATA_URI = "data:"


class Answerer:
    """Answers requests with one model; loading it takes as long as reading its checkpoint."""

    def __init__(self, *, checkpoint: Path, mixture: Path, tokenizer: Path):
        from uio2.model.checkpoint import native
        from uio2.tasks.mixture import MIXTURE_FILE
        from uio2.tasks.specs import RegisterSpec
        from uio2.tasks.vocabulary import UnifiedVocabulary

        self._recipe = spec_from_json(RegisterSpec, json.loads((mixture / MIXTURE_FILE).read_text())["recipe"])
        self._vocabulary = UnifiedVocabulary.from_file(tokenizer)
        self._model = native.load(checkpoint / "model")

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Answers of the rows of a pandas frame, or of a list of mappings, in order."""
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else list(model_input)
        parts = (rows[start : start + MOST_ROWS] for start in range(0, len(rows), MOST_ROWS))
        return [answer for part in parts for answer in self._answers(part)]

    def _answers(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        from uio2.evaluate.answers import boxes_of
        from uio2.evaluate.decoding import up_to_end
        from uio2.model.generate import generate

        batch, infos = self._batch(rows)
        output = generate(self._model, batch, max_length=self._model.config.decoder_max_text_length)
        for ids, info in zip(np.asarray(output.tokens)[: len(rows)].tolist(), infos, strict=True):
            text = self._vocabulary.decode(up_to_end(ids))
            boxes = [] if info is None else boxes_of(text, image_info=info, size=self._recipe.image_size)
            yield {"text": text, "boxes": boxes}

    def _batch(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, np.ndarray], list[list[float] | None]]:
        """The model batch, filled up to a power of two so that few sizes are compiled, and where each image went."""
        from uio2.tasks.converter import convert
        from uio2.tasks.lazy import tf
        from uio2.tasks.task import PREFIXES
        from uio2.tasks.unified import unify

        prompts = [PREFIXES["text"] + self._prompt(row, number) for number, row in enumerate(rows)]
        seen = [self._seen(row, number) for number, row in enumerate(rows)]
        features = {key: tf.stack([one[key] for one, _ in seen]) for key in seen[0][0]}
        examples = {"text_inputs": tf.constant(prompts), **features}
        batch = convert(unify(examples, vocabulary=self._vocabulary, recipe=self._recipe), recipe=self._recipe)
        made = {k: v.numpy() for k, v in batch.items() if not k.startswith("meta/")}
        fill = (1 << (len(rows) - 1).bit_length()) - len(rows)
        return {k: np.concatenate([v, np.repeat(v[:1], fill, 0)]) for k, v in made.items()}, [info for _, info in seen]

    def _prompt(self, row: Mapping[str, Any], number: int) -> str:
        from uio2.tasks.families import TaskError, find_task
        from uio2.tasks.prompts import load_prompts

        text, name = _given(row, "text"), _given(row, "task")
        if not name:
            if not text:
                raise UsageError(f"row {number}: `text` is empty; expected what to do, or a `task`")
            return text
        try:
            family = find_task(name).prompts
        except TaskError as error:
            raise UsageError(f"row {number}: {error}") from error
        if not family:
            return text
        prompts = load_prompts(family, text=self._recipe.prompts.get(family))
        if len(prompts.placeholders) > 1:
            takes = ", ".join(prompts.placeholders)
            raise UsageError(
                f"row {number}: the prompt of {name} takes {takes}: give it whole as `text`, without `task`"
            )
        return prompts.render(prompts.evaluation, **dict.fromkeys(prompts.placeholders, text))

    def _seen(self, row: Mapping[str, Any], number: int) -> tuple[dict[str, Any], list[float] | None]:
        """Stage 1 features of the image input, an empty canvas without one, and the 11 numbers of `image_info`."""
        from uio2.tasks import image
        from uio2.tasks.lazy import tf
        from uio2.tasks.task import patch_noise

        size = self._recipe.image_size
        noise = patch_noise(self._recipe, tf.zeros([]))
        given = _given(row, "image")
        if not given:
            return {"image_inputs": tf.zeros([*size, 3]), "image_inputs_mask": tf.zeros(size, tf.bool), **noise}, None
        try:
            pixels = tf.io.decode_image(image_bytes(given, number), channels=3, expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            raise UsageError(f"row {number}: `image` is no JPEG, PNG, GIF or BMP") from error
        placement = image.place(tf.cast(tf.shape(pixels)[:2], tf.float32), size=size)
        features = {
            "image_inputs": image.render(pixels, placement, size=size),
            "image_inputs_mask": image.pixel_mask(placement, size=size),
        }
        return features | noise, placement.info().numpy().tolist()


def image_bytes(given: str, number: int) -> bytes:
    """The file that a request gives: base64 of its bytes, a data URI, or its path."""
    text = given.partition(",")[2] if given.startswith(DATA_URI) else given
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        path = Path(given.removeprefix("file://")).expanduser()
    try:
        return path.read_bytes()
    except OSError as error:
        said = given if len(given) < 80 else f"{given[:77]}..."
        raise UsageError(f"row {number}: `image` {said!r} is neither base64 nor a file that can be read "
                         f"({error.strerror})") from error  # fmt: skip


def _given(row: Mapping[str, Any], key: str) -> str:
    """A column of a row as text; pandas has None or NaN where it is not given."""
    value = row.get(key)
    return value.strip() if isinstance(value, str) else ""


def _load_pyfunc(path: str) -> Answerer:
    """What MLflow calls; `path` is the file that `uio2.pipeline.mlflow_models` wrote."""
    places = json.loads(Path(path).read_text())
    gone = [places[part] for part in PARTS if not Path(places[part]).exists()]
    if gone:
        raise UsageError(f"{places['model']}: {gone[0]} is gone; a registered model refers to the store it was made in")
    return Answerer(**{part: Path(places[part]) for part in PARTS})
