"""The constant answers a model must beat, learned from the training split.

Without them a figure says little: always answering "yes" is right for a third of VQA questions, and the mean box
covers half of a centred object. Ties go to the alphabetically first answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from uio2.evaluate.datasets import examples, open_dataset
from uio2.evaluate.families import BOX_CLASSIFICATION, CAPTION, REFEXP, VQA, Family
from uio2.pipeline.artifact import Artifact

Progress = Callable[[str], None]
# A text, or a box `[y1, x1, y2, x2]` as fractions of the image; None where the training split holds no answer.
Baseline = str | tuple[float, float, float, float] | None


def learn_baselines(
    families: Iterable[Family], *, inputs: Mapping[str, Artifact], split: str, limit: int, progress: Progress
) -> dict[str, Baseline]:
    """Baseline of each family by its name; the datasets are the inputs `coco` and `refcoco`, each read once."""
    wanted = {f.name for f in families}
    found: dict[str, Baseline] = {}
    if wanted & {CAPTION.name, VQA.name, BOX_CLASSIFICATION.name}:
        progress("baselines: texts of the training split")
        found |= _from_coco(inputs, split=split, limit=limit)
    if REFEXP.name in wanted:
        progress("baselines: boxes of the training split")
        found[REFEXP.name] = _mean_box(inputs, split=split, limit=limit)
    return {name: found[name] for name in sorted(wanted)}


def _from_coco(inputs: Mapping[str, Artifact], *, split: str, limit: int) -> dict[str, Baseline]:
    builder = open_dataset(inputs, name="coco", why="the baseline of captions, questions and box classes")
    if split not in builder.info.splits:  # a set that is only evaluated on
        return dict.fromkeys((CAPTION.name, VQA.name, BOX_CLASSIFICATION.name))
    captions: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    wanted = {"captions": {"text": True}, "vqa": {"answers": True}, "objects": {"label": True}}
    features = {name: leaves for name, leaves in wanted.items() if name in builder.info.features}
    names = builder.info.features["objects"]["label"].names
    for example in examples(builder, split=split, features=features, limit=limit):
        captions.update(_texts(example.get("captions", {}).get("text", ())))
        for given in _rows(example.get("vqa", {}).get("answers", ())):
            # Questions with fewer than ten annotators are filled up with empty answers.
            answer = _most_frequent(Counter(text for text in _texts(given) if text))
            if answer is not None:
                answers[answer] += 1
        labels.update(names[i] for i in example["objects"]["label"])
    return {
        CAPTION.name: _most_frequent(captions),
        VQA.name: _most_frequent(answers),
        BOX_CLASSIFICATION.name: _most_frequent(labels),
    }


def _mean_box(inputs: Mapping[str, Artifact], *, split: str, limit: int) -> Baseline:
    builder = open_dataset(inputs, name="refcoco", why="the mean-box baseline of referring expressions")
    if split not in builder.info.splits:
        return None
    total, count = np.zeros(4), 0
    for example in examples(builder, split=split, features={"objects": {"bbox": True}}, limit=limit):
        boxes = np.asarray(example["objects"]["bbox"], np.float64).reshape(-1, 4)
        total += boxes.sum(axis=0)
        count += len(boxes)
    if not count:
        return None
    y1, x1, y2, x2 = (round(float(v), 6) for v in total / count)
    return y1, x1, y2, x2


def _most_frequent(counts: Counter[str]) -> str | None:
    return min(counts, key=lambda text: (-counts[text], text)) if counts else None


def _rows(value: Any) -> Iterable[Any]:
    # TFDS hands a nested sequence back as a RaggedTensorValue, a fixed inner length as an array.
    return value.to_list() if hasattr(value, "to_list") else value


def _texts(values: Iterable[Any]) -> list[str]:
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values]
