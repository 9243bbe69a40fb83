"""Scores of a set of answers, from prediction rows alone: no dataset, no model, no TensorFlow.

Each function takes the rows of a task and one answer per row (`uio2.evaluate.answers`) and returns the figures its
family names (`uio2.evaluate.families`). The baseline is scored by the same code with another answer in every row, so
the two figures are comparable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from uio2.evaluate.answers import Answer, tags_of
from uio2.evaluate.predictions import Prediction, PredictionsError
from uio2.tasks.metrics.boxes import refexp_results
from uio2.tasks.metrics.captions import caption_results
from uio2.tasks.metrics.exact_match import classification_results, exact_match, exact_match_results
from uio2.tasks.metrics.responses import response_results
from uio2.tasks.metrics.result import Id, Resampling, Result
from uio2.tasks.metrics.speech import speech_results
from uio2.tasks.metrics.tagging import tagging_results
from uio2.tasks.metrics.vqa import vqa_results

Rows = Sequence[Prediction]
Answers = Sequence[Answer]


@dataclasses.dataclass(frozen=True)
class Scores:
    """The figures of a set of answers.

    Attributes:
      results: metric name -> figure with interval.
      per_example: name -> float64 [n], what each row scored by itself, where there is such a thing.
    """

    results: Mapping[str, Result]
    per_example: Mapping[str, Float[np.ndarray, " n"]]

    @classmethod
    def of(cls, results: Mapping[str, Result], **per_example: Float[np.ndarray, " n"]) -> Scores:
        """Figures whose own scores per example count, and further ones."""
        own = {name: found.scores for name, found in results.items() if found.scores is not None}
        return cls(results, own | per_example)

    def only(self, metrics: Sequence[str]) -> Scores:
        """The named figures, in this order, and what examples score beside figures.

        Figures that a set does not have (no small objects) are left out.
        """
        kept = {name: self.results[name] for name in metrics if name in self.results}
        alone = {k: v for k, v in self.per_example.items() if k in kept or k not in self.results}
        return Scores(kept, alone)


Score = Callable[[Rows, Answers, Resampling], Scores]


def score_exact_match(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`exact_match` against any target."""
    return Scores.of(exact_match_results(_texts(rows, answers), references=_targets(rows), resampling=resampling))


def score_captions(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`exact_match` and all of `caption_results`."""
    found, references = _texts(rows, answers), _targets(rows)
    match = exact_match_results(found, references=references, resampling=resampling)
    return Scores.of(match | caption_results(found, references=references, resampling=resampling))


def score_vqa(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`exact_match` against any annotator, `score` and `accuracy` against all of them."""
    found, references = _texts(rows, answers), _targets(rows)
    match = exact_match_results(found, references=references, resampling=resampling)
    return Scores.of(match | vqa_results(found, references=references, resampling=resampling))


def score_classes(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`accuracy` and `balanced_accuracy`; of several accepted classes the one that was answered is the true one."""
    found = _texts(rows, answers)
    references = {
        example: next((t for t in targets if exact_match(found[example], targets=t)), targets[0])
        for example, targets in _targets(rows).items()
    }
    return Scores.of(classification_results(found, references=references, resampling=resampling))


def score_responses(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`exact_match` and `rouge_l`."""
    return Scores.of(response_results(_texts(rows, answers), references=_targets(rows), resampling=resampling))


def score_speech(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`wer`; of a row by itself the edits per word of its reference."""
    references = {example: targets[0] for example, targets in _targets(rows).items()}
    results = speech_results(_texts(rows, answers), references=references, resampling=resampling)
    edits, words = np.asarray(results["wer"].sums).T
    return Scores.of(results, wer=edits / np.maximum(words, 1))


def score_tags(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`map` over all tags of the set; of a row by itself `overlap`, common tags over those of either side."""
    true = [_true_tags(row) for row in rows]
    classes = sorted(set().union(*true))
    place = {name: i for i, name in enumerate(classes)}
    scores, has = np.zeros((len(rows), len(classes))), np.zeros((len(rows), len(classes)), bool)
    overlap = np.zeros(len(rows))
    for i, (answer, tags) in enumerate(zip(answers, true, strict=True)):
        has[i, [place[name] for name in tags]] = True
        said = tags_of(answer or "", known=classes)
        for order, name in enumerate(said):
            if name in place:
                # An earlier tag is the surer one, as with boxes.
                scores[i, place[name]] = 1 / (1 + order)
        overlap[i] = len(tags & set(said)) / len(tags | set(said))
    ids = _ids(rows)
    results = tagging_results(
        dict(zip(ids, scores, strict=True)), references=dict(zip(ids, has, strict=True)), resampling=resampling
    )
    return Scores.of(results, overlap=overlap)


def score_box(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """`acc` and `iou` of one box."""
    references: dict[Id, Sequence[float]] = {row.example_id: true_box(row) for row in rows}
    return Scores.of(refexp_results(by_id(rows, answers), references=references, resampling=resampling))


def score_nothing(rows: Rows, answers: Answers, resampling: Resampling) -> Scores:
    """Pictures and sounds that no figure measures yet."""
    del rows, answers, resampling
    return Scores({}, {})


def by_id(rows: Rows, answers: Answers) -> dict[Id, Answer]:
    """The answers by example id."""
    return dict(zip(_ids(rows), answers, strict=True))


def true_box(row: Prediction) -> tuple[float, float, float, float]:
    """The row's box; PredictionsError if it has none."""
    if row.true_box is None:
        raise PredictionsError(f"task {row.task!r}, example {row.example_id!r}: true_box is null, expected a box")
    return row.true_box


def _ids(rows: Rows) -> list[Id]:
    return [row.example_id for row in rows]


def _texts(rows: Rows, answers: Answers) -> dict[Id, str]:
    return by_id(rows, ["" if a is None else str(a) for a in answers])


def _targets(rows: Rows) -> dict[Id, tuple[str, ...]]:
    for row in rows:
        if not row.targets:
            raise PredictionsError(f"task {row.task!r}, example {row.example_id!r}: targets is empty")
    return {row.example_id: row.targets for row in rows}


def _true_tags(row: Prediction) -> set[str]:
    """The row's `labels`, or its target taken apart at the commas."""
    tags = {name.strip().lower() for name in row.truth.get("labels", ())}
    tags = tags or set(tags_of(", ".join(row.targets[:1]), known=()))
    if not tags:
        raise PredictionsError(f"task {row.task!r}, example {row.example_id!r}: no true tag in truth or targets")
    return tags
