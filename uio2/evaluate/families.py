"""Ways of scoring: what `Task.score` can be, and what follows from it.

A task's own file names its way; here stands what each is: how an answer is read, which figures it gives, what a model
must beat, and how pictures are drawn. Metric keys are `<way>/<metric>`. Where a run has several tasks of one way
(RefCOCO and RefCOCO+), the first keeps the plain keys and the others are `<task>/<metric>`. A new way is a row of
`FAMILIES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from uio2.evaluate import answers as read
from uio2.evaluate import scoring, scoring_places
from uio2.evaluate.answers import Answer
from uio2.evaluate.predictions import TaskPredictions
from uio2.pipeline.stage import StageError
from uio2.tasks.families import TaskError, find_task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A way of scoring.

    Attributes:
      name: prefix of the metric keys.
      title: heading in reports.
      metrics: metric names, the one that tells right from wrong first; empty where there is no figure yet.
      errors: those of which less is better.
      read: the answers of a task's rows.
      score: answers to figures.
      learned: what the baseline learns from the training split: `answer`, the most frequent one; `box`, the mean box
        of the objects; empty for ways without a baseline: no constant answers them sensibly, or finding the best would
        take reading every training picture.
      baseline: what the baseline always answers, in words.
      ranking: score per example that orders answers from best to worst; empty where an example has none.
      needs_pictures: scored against the pictures of the dataset (`uio2.evaluate.scoring_pictures`), not by `score`.
      alone: what an example adds to the figures does not depend on the others, so a set may be scored in parts.
      slices: kinds of slices that its rows have (`uio2.evaluate.slices`).
      max_length: decoding steps that suffice for an answer, end marker included; 0 leaves it to the spec.
      drawing: settings of generation, of answers that are pictures or sound; what is not named is as generation has it.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    read: Callable[[TaskPredictions], list[Answer]]
    score: scoring.Score
    errors: tuple[str, ...] = ()
    learned: str = ""
    baseline: str = ""
    ranking: str = ""
    needs_pictures: bool = False
    alone: bool = True
    slices: tuple[str, ...] = ()
    max_length: int = 0
    drawing: Mapping[str, float] = dataclasses.field(default_factory=dict)


_ANSWER, _BOX = "answer", "box"
_MOST_FREQUENT = "most frequent training answer"
_MEAN_BOX = "mean box of the training objects"
_COCO = ("ap", "ap50", "ap75")
# As the published models draw maps: cooler than pictures of the imagination, and without guidance.
_MAP = {"temperature": 0.9, "top_p": 0.9, "guidance": 0.0}

CAPTION = Family(
    name="caption", title="Captions", metrics=("exact_match", "cider", "rouge_l", "bleu_4"), read=read.text_answers,
    score=scoring.score_captions, learned=_ANSWER, baseline="most frequent training caption", ranking="cider",
    alone=False, slices=("answer_length", "image_size"),
)  # fmt: skip
VQA = Family(
    name="vqa", title="Questions", metrics=("exact_match", "score"), read=read.text_answers, score=scoring.score_vqa,
    learned=_ANSWER, baseline=_MOST_FREQUENT, ranking="score",
    slices=("question_kind", "answer_kind", "question_length", "image_size"),
)  # fmt: skip
BOX_CLASSIFICATION = Family(
    name="box_classification", title="Box classification", metrics=("exact_match",), read=read.text_answers,
    score=scoring.score_exact_match, learned=_ANSWER, baseline="most frequent class of the training objects",
    ranking="exact_match", slices=("answer", "box_size", "image_size"),
)  # fmt: skip
REFEXP = Family(
    name="refexp", title="Referring expressions", metrics=("acc", "iou"), read=read.box_answers,
    score=scoring.score_box, learned=_BOX, baseline=_MEAN_BOX, ranking="iou",
    slices=("box_size", "question_length", "image_size"),
    max_length=5,  # four location tokens and the end marker
)  # fmt: skip
LOCALIZATION = Family(
    name="localization", title="Localisation", metrics=("grit",), read=read.boxes_answers,
    score=scoring_places.score_localization, learned=_BOX, baseline=_MEAN_BOX, ranking="grit",
    slices=("objects", "question_kind", "image_size"),
)  # fmt: skip
DETECTION = Family(
    name="detection", title="Object detection", metrics=_COCO, read=read.labelled_answers,
    score=scoring_places.score_detection, ranking="grit", alone=False, slices=("objects", "image_size"),
)  # fmt: skip

FAMILIES = {
    family.name: family
    for family in (
        VQA,
        BOX_CLASSIFICATION,
        REFEXP,
        CAPTION,
        LOCALIZATION,
        DETECTION,
        Family(
            name="exact_match", title="Answers", metrics=("exact_match",), read=read.text_answers,
            score=scoring.score_exact_match, learned=_ANSWER, baseline=_MOST_FREQUENT, ranking="exact_match",
            slices=("question_kind", "answer_length"),
        ),
        Family(
            name="classification", title="Classes", metrics=("accuracy", "balanced_accuracy"), read=read.text_answers,
            score=scoring.score_classes, learned=_ANSWER, baseline="most frequent training class", ranking="accuracy",
            alone=False, slices=("answer", "image_size"),
        ),
        Family(
            name="text", title="Responses", metrics=("exact_match", "rouge_l"), read=read.text_answers,
            score=scoring.score_responses, ranking="rouge_l", slices=("question_length", "answer_length"),
        ),
        Family(
            name="wer", title="Speech", metrics=("wer",), errors=("wer",), read=read.text_answers,
            score=scoring.score_speech, ranking="wer", slices=("answer_length",),
        ),
        Family(
            name="audio_tagging", title="Sound tags", metrics=("map",), read=read.text_answers,
            score=scoring.score_tags, learned=_ANSWER, baseline="most frequent training tags", ranking="overlap",
            alone=False, slices=("answer",),
        ),
        Family(
            name="keypoints", title="Keypoints", metrics=("grit", *_COCO), read=read.keypoint_answers,
            score=scoring_places.score_keypoints, ranking="similarity", alone=False,
            slices=("mask_size", "image_size"),
        ),
        Family(
            name="segmentation", title="Segmentation", metrics=("grit", "mask"), read=read.painted_answers,
            score=scoring_places.score_masks, ranking="mask", drawing=_MAP | {"top_p": 0.95},
            slices=("box_size", "question_kind"),
        ),
        Family(
            name="depth", title="Depth", metrics=("abs_rel", "rmse", "rmse_pixels"),
            errors=("abs_rel", "rmse", "rmse_pixels"), read=read.painted_answers, score=scoring_places.score_depth,
            ranking="abs_rel", drawing=_MAP, slices=("image_size",),
        ),
        Family(
            name="normals", title="Surface normals", metrics=("within_11", "within_22", "within_30", "mean_angle"),
            errors=("mean_angle",), read=read.painted_answers, score=scoring_places.score_normals,
            ranking="within_11", drawing=_MAP, slices=("image_size",),
        ),
        Family(
            name="image", title="Pictures", metrics=("frechet", "kernel", "likeness", "text_likeness"),
            errors=("frechet", "kernel"), read=read.painted_answers, score=scoring.score_nothing, needs_pictures=True,
            ranking="likeness", alone=False, slices=("box_size", "image_size"),
            drawing={"temperature": 1.0, "top_p": 0.9, "guidance": 10.0},
        ),
        Family(name="", title="Not scored", metrics=(), read=read.plain_answers, score=scoring.score_nothing),
    )
}  # fmt: skip


def family_of(task: str) -> Family:
    """The way of scoring of a task.

    Raises:
      StageError: no such task, or its `score` is no way of scoring.
    """
    try:
        score = find_task(task).score
    except TaskError as error:
        raise StageError(f"cannot score: {error}") from error
    if score not in FAMILIES:
        raise StageError(f"task {task!r}: score is {score!r}; expected one of {', '.join(filter(None, FAMILIES))}")
    return FAMILIES[score]


def key_prefixes(tasks: Sequence[str]) -> dict[str, str]:
    """Prefix of the metric keys of each task, see the module's docstring."""
    prefixes: dict[str, str] = {}
    for task in tasks:
        name = family_of(task).name
        prefixes[task] = task if name in prefixes.values() else name
    return prefixes
