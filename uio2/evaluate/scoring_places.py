"""Scores of answers that say where things are: boxes and keypoints as text, masks and maps as pictures.

The interface is that of `uio2.evaluate.scoring`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from uio2.evaluate import truth
from uio2.evaluate.answers import Box, Labelled, Painted, confidence
from uio2.evaluate.predictions import Prediction
from uio2.evaluate.scoring import Answers, Rows, Scores, by_id, true_box
from uio2.tasks.metrics.coco_ap import Detection, Shape, Truth, coco_results
from uio2.tasks.metrics.depth import depth_results
from uio2.tasks.metrics.grit import (
    keypoint_results,
    keypoint_similarity,
    localization_results,
    localization_score,
    segmentation_results,
)
from uio2.tasks.metrics.normals import normal_results
from uio2.tasks.metrics.result import Id, Resampling

PERSON = "person"


def score_detection(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """COCO's figures of boxes; of an image by itself `grit`, the localisation score of its classes.

    Truth: `boxes`, `labels`; if given `areas`, and `crowd_boxes` with `crowd_labels`.
    """
    references: dict[Id, list[Truth]] = {row.example_id: _true_objects(row) for row in rows}
    predictions = {example: _detections(found) for example, found in by_id(rows, answers).items()}
    results = coco_results(predictions, references=references, shape=Shape.BOX, resampling=resampling)
    alone = [_by_class(answer, row) for row, answer in zip(rows, answers, strict=True)]
    return Scores.of(results, grit=np.array(alone))


def score_localization(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`grit`, the benchmark's score of localisation. Truth: `boxes`."""
    references: dict[Id, list[Box]] = {row.example_id: truth.boxes(row) for row in rows}
    results = localization_results(by_id(rows, answers), references=references, resampling=resampling)
    return Scores.of({"grit": results["localization"]})


def score_keypoints(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`grit` and COCO's `ap`, `ap50`, `ap75` of persons, whose images are resampled; of a person alone `similarity`.

    A person is asked for by the box, so the answer's probability is the confidence that average precision ranks by.
    Truth: `keypoints`, and the row's box; `areas` of the persons if given (else the box's: COCO uses the mask's, which
    is smaller and so stricter).
    """
    images = _by_image(rows)
    said = by_id(rows, answers)
    people = {row.example_id: truth.keypoints(row) for row in rows}
    persons = {i: [said[r.example_id] for r in group if said[r.example_id] is not None] for i, group in images.items()}
    true = {i: [person for r in group for person in people[r.example_id]] for i, group in images.items()}
    grit = keypoint_results(persons, references=true, resampling=resampling)
    detections = {
        i: [
            Detection(category=PERSON, score=_sureness(r), keypoints=said[r.example_id])
            for r in group
            if said[r.example_id] is not None
        ]
        for i, group in images.items()
    }
    truths = {i: [t for r in group for t in _true_persons(r, people[r.example_id])] for i, group in images.items()}
    coco = coco_results(detections, references=truths, shape=Shape.KEYPOINTS, resampling=resampling)
    alone = [
        0.0 if answer is None else max(keypoint_similarity(answer, p) for p in people[row.example_id])
        for row, answer in zip(rows, answers, strict=True)
    ]
    return Scores({"grit": grit["keypoint"], **coco}, {"similarity": np.array(alone)})


def score_masks(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`grit` (boundaries) and `mask` (whole masks). An empty mask is no answer. Truth: `mask`."""

    def predicted(painted: Painted) -> list[np.ndarray]:
        mask = painted.mask()
        return [mask] if mask.any() else []

    results = segmentation_results(
        _Read(by_id(rows, answers), predicted),
        references=_Read({row.example_id: row for row in rows}, lambda row: [truth.mask(row)]),
        resampling=resampling,
    )
    return Scores.of({"grit": results["segmentation"], "mask": results["segmentation_mask"]})


def score_depth(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`abs_rel`, `rmse`, `rmse_pixels` in metres; answers end at 10 m, truths do not. Truth: `depth`."""
    references = _Read({row.example_id: row for row in rows}, truth.depth)
    return Scores.of(
        depth_results(_Read(by_id(rows, answers), Painted.depth), references=references, resampling=resampling)
    )


def score_normals(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """Shares of pixels within an angle, and the mean angle. Truth: `normals`."""
    references = _Read({row.example_id: row for row in rows}, truth.normals)
    predictions = _Read(by_id(rows, answers), lambda painted: painted.pixels() * 255)
    return Scores.of(normal_results(predictions, references=references, resampling=resampling))


class _Read(Mapping[Id, Any]):
    """Pictures that are decoded when looked up, and not kept: a set of them need not fit into memory."""

    def __init__(self, items: Mapping[Id, Any], read: Callable[[Any], Any]) -> None:
        self._items, self._read = items, read

    def __getitem__(self, example: Id) -> Any:
        return self._read(self._items[example])

    def __contains__(self, example: object) -> bool:
        return example in self._items

    def __iter__(self) -> Iterator[Id]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def _detections(found: Labelled) -> list[Detection]:
    return [
        Detection(category=label, score=confidence(place), box=box)
        for place, (box, label) in enumerate(zip(found.boxes, found.labels, strict=True))
    ]


def _true_objects(row: Prediction) -> list[Truth]:
    labels = truth.given(row, "labels")
    areas = row.truth.get("areas", [None] * len(labels))
    objects = [
        Truth(category=label, box=box, area=area)
        for box, label, area in zip(truth.boxes(row), labels, areas, strict=True)
    ]
    if "crowd_boxes" not in row.truth:
        return objects
    crowds = zip(truth.boxes(row, "crowd_boxes"), truth.given(row, "crowd_labels"), strict=True)
    return objects + [Truth(category=label, box=box, crowd=True) for box, label in crowds]


def _by_class(found: Labelled, row: Prediction) -> float:
    """Mean over the true classes of the localisation score, each with the boxes of its own name."""
    true: dict[str, list] = {}
    for box, label in zip(truth.boxes(row), truth.given(row, "labels"), strict=True):
        true.setdefault(label, []).append(box)
    scores = [
        localization_score([b for b, name in zip(found.boxes, found.labels, strict=True) if name == label], true=boxes)
        for label, boxes in true.items()
    ]
    return float(np.mean(scores)) if scores else 1.0


def _by_image(rows: Rows) -> dict[Id, list[Prediction]]:
    images: dict[Id, list[Prediction]] = {}
    for row in rows:
        images.setdefault(row.image_id, []).append(row)
    return images


def _true_persons(row: Prediction, people: list[np.ndarray]) -> list[Truth]:
    areas = row.truth.get("areas", [None] * len(people))
    return [
        Truth(category=PERSON, box=true_box(row), keypoints=person, area=area)
        for person, area in zip(people, areas, strict=True)
    ]


def _sureness(row: Prediction) -> float:
    """Mean probability of the answer's tokens, geometric."""
    return math.exp(row.logprob / max(1, len(row.tokens)))
