"""The examples a report shows: an even sample, the surest hits and the surest misses, each as a card."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from uio2.evaluate.families import BOX_CLASSIFICATION, CAPTION, REFEXP, VQA, Family
from uio2.evaluate.predictions import Prediction

MAX_REFERENCES = 3


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle in source pixels; `role` is `true`, `predicted` or `asked`."""

    x: float
    y: float
    width: float
    height: float
    role: str


@dataclasses.dataclass(frozen=True)
class Card:
    """One example on the page.

    Attributes:
      example_id: as in the prediction file.
      image_id: whose picture it is.
      verdict: `right`, `wrong`, or `partly` for a score between.
      ask: the question, expression or class request; may be empty.
      answer: what the model said.
      truth: what was right; several lines for captions.
      figures: scores as text, for example `IoU 0.83`.
      boxes: rectangles on the picture.
      prompt: the text the model was given.
    """

    example_id: str
    image_id: int
    verdict: str
    ask: str
    answer: str
    truth: tuple[str, ...]
    figures: tuple[str, ...]
    boxes: tuple[Box, ...]
    prompt: str


@dataclasses.dataclass(frozen=True)
class Scored:
    """A prediction beside its line of per_example.jsonl."""

    row: Prediction
    line: Mapping[str, Any]

    def score(self, metric: str) -> float:
        """The example's own score."""
        return float(self.line["scores"][metric])


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The cards of one task."""

    sample: tuple[Card, ...]
    best: tuple[Card, ...]
    worst: tuple[Card, ...]


# What orders examples from best to worst, finer than right or wrong where there is such a measure.
_RANKING = {VQA.name: "score", BOX_CLASSIFICATION.name: "exact_match", REFEXP.name: "iou", CAPTION.name: "cider"}


def choose(family: Family, *, scored: Sequence[Scored], number: int) -> Chosen:
    """An even sample of `number` examples and half as many hits and misses; ties go to the surer answer.

    Sureness is the mean log-probability per token: a wrong answer given with certainty is the one to learn from.
    """
    step = max(1, len(scored) // number)
    metric = _RANKING[family.name]

    def sure(s: Scored) -> float:
        return s.row.logprob / max(1, len(s.row.tokens))

    half = max(1, number // 2)
    hits = [s for s in scored if s.score(metric) > 0]
    misses = [s for s in scored if _verdict(family, s) != "right"]
    best = sorted(hits, key=lambda s: (-s.score(metric), -sure(s), s.row.index))[:half]
    worst = sorted(misses, key=lambda s: (s.score(metric), -sure(s), s.row.index))[:half]
    cards = [[card_of(family, scored=s) for s in group] for group in (scored[::step][:number], best, worst)]
    return Chosen(*(tuple(group) for group in cards))


def card_of(family: Family, *, scored: Scored) -> Card:
    """The card of one example."""
    row = scored.row
    answer, boxes, truth = row.text or "(nothing)", [], row.targets
    if family is REFEXP:
        truth = ()
        true_box = cast(Sequence[float], row.true_box)  # scoring refuses a row without
        boxes.append(_rectangle(true_box, role="true"))
        if scored.line["answer"] is None:
            answer = f"no box: {answer}"
        else:
            boxes.append(_rectangle(scored.line["answer"], role="predicted"))
            answer = ""
    elif family is VQA:
        truth = (_majority(row.targets),)
    elif family is CAPTION:
        truth = row.targets[:MAX_REFERENCES]
    elif row.true_box is not None:
        boxes.append(_rectangle(row.true_box, role="asked"))
    return Card(
        example_id=row.example_id,
        image_id=row.image_id,
        verdict=_verdict(family, scored),
        ask=row.question,
        answer=answer,
        truth=tuple(truth),
        figures=_figures(family, scored),
        boxes=tuple(boxes),
        prompt=row.prompt,
    )


def _verdict(family: Family, scored: Scored) -> str:
    score = scored.score(family.metrics[0])
    if family is VQA and score < 1:
        score = scored.score("score")
    if score >= 1:
        return "right"
    # A caption is rarely a reference word for word; it is wrong only if it shares nothing with any.
    partly = score > 0 or (family is CAPTION and scored.score("rouge_l") > 0)
    return "partly" if partly else "wrong"


def _figures(family: Family, scored: Scored) -> tuple[str, ...]:
    if family is REFEXP:
        return (f"IoU {scored.score('iou'):.2f}",)
    if family is CAPTION:
        return (f"CIDEr {scored.score('cider'):.2f}", f"ROUGE-L {scored.score('rouge_l'):.2f}")
    if family is VQA and 0 < scored.score("score") < 1:
        return (f"score {scored.score('score'):.2f}",)
    return ()


def _majority(targets: Sequence[str]) -> str:
    counts = Counter(targets)
    answer = min(counts, key=lambda text: (-counts[text], text))
    if len(counts) == 1:
        return answer
    return f"{answer} ({counts[answer]} of {len(targets)})"


def _rectangle(box: Sequence[float], *, role: str) -> Box:
    y1, x1, y2, x2 = box
    return Box(round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2), role)
