"""Which tasks are scored alike: a task's family fixes its metrics and the baseline a model must beat.

Metric keys are `<family>/<metric>`. Where a run has several tasks of one family (RefCOCO and RefCOCO+), the first
keeps the plain keys and the others are `<task>/<metric>`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from uio2.pipeline.stage import StageError


@dataclasses.dataclass(frozen=True)
class Family:
    """A way of scoring.

    Attributes:
      name: prefix of the metric keys.
      title: heading in reports.
      metrics: metric names, the one that tells right from wrong first.
      baseline: what the baseline always answers, in words.
      max_length: decoding steps that suffice for an answer, end marker included; 0 leaves it to the spec.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    baseline: str
    max_length: int = 0


CAPTION = Family("caption", "Captions", ("exact_match", "cider", "rouge_l", "bleu_4"), "most frequent training caption")
VQA = Family("vqa", "Questions", ("exact_match", "score"), "most frequent training answer")
BOX_CLASSIFICATION = Family(
    "box_classification", "Box classification", ("exact_match",), "most frequent class of the training objects"
)
# Four location tokens and the end marker.
REFEXP = Family("refexp", "Referring expressions", ("acc", "iou"), "mean box of the training objects", max_length=5)

FAMILIES = (VQA, BOX_CLASSIFICATION, REFEXP, CAPTION)

_TASKS = {
    "image_caption_coco_2017": CAPTION,
    "vqa_coco_2017": VQA,
    "box_classification_coco_2017": BOX_CLASSIFICATION,
    "refcoco_unc": REFEXP,
    "refcoco_plus_unc": REFEXP,
    "refcocog_google": REFEXP,
}


def family_of(task: str) -> Family:
    """The family of a task; StageError naming the known tasks if it has none."""
    if task not in _TASKS:
        raise StageError(f"task {task!r} has no way of scoring; known tasks: {', '.join(sorted(_TASKS))}")
    return _TASKS[task]


def key_prefixes(tasks: Sequence[str]) -> dict[str, str]:
    """Prefix of the metric keys of each task, see the module's docstring."""
    prefixes: dict[str, str] = {}
    for task in tasks:
        name = family_of(task).name
        prefixes[task] = task if name in prefixes.values() else name
    return prefixes
