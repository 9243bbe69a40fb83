"""The examples a report shows: an even sample, the surest hits and the surest misses, each as a card."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from uio2.evaluate.families import CAPTION, DETECTION, LOCALIZATION, REFEXP, VQA, Family
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
      verdict: `right`, `wrong`, `partly` for a score between; empty where no score says it.
      ask: the question, expression or class request; may be empty.
      answer: what the model said.
      truth: what was right; several lines for captions.
      figures: scores as text, for example `IoU 0.83`.
      boxes: rectangles on the picture.
      prompt: the text the model was given.
      media: the picture that is the answer, a path from the task's folder; None where it is a text.
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
    media: str | None = None


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


def choose(family: Family, *, scored: Sequence[Scored], number: int) -> Chosen:
    """An even sample of `number` examples and half as many hits and misses; ties go to the surer answer.

    Sureness is the mean log-probability per token: a wrong answer given with certainty is the one to learn from.
    """
    step = max(1, len(scored) // number)
    sample = tuple(card_of(family, scored=s) for s in scored[::step][:number])
    if not family.ranking:
        return Chosen(sample, (), ())

    def sure(s: Scored) -> float:
        return s.row.logprob / max(1, len(s.row.tokens))

    half = max(1, number // 2)
    hits = [s for s in scored if _goodness(family, s) > 0 or family.ranking in family.errors]
    misses = [s for s in scored if _verdict(family, s) != "right"]
    best = sorted(hits, key=lambda s: (-_goodness(family, s), -sure(s), s.row.index))[:half]
    worst = sorted(misses, key=lambda s: (_goodness(family, s), -sure(s), s.row.index))[:half]
    return Chosen(sample, *(tuple(card_of(family, scored=s) for s in group) for group in (best, worst)))


def _goodness(family: Family, s: Scored) -> float:
    """The score that examples are ordered by; more is better."""
    score = s.score(family.ranking)
    return -score if family.ranking in family.errors else score


def card_of(family: Family, *, scored: Scored) -> Card:
    """The card of one example."""
    row = scored.row
    answer, truth = row.text or "(nothing)", row.targets
    boxes = _rectangles(family, scored)
    if row.media is not None:
        answer = ""
    elif family is REFEXP:
        truth = ()
        answer = f"no box: {answer}" if scored.line["answer"] is None else ""
    elif family is LOCALIZATION and scored.line["answer"]:
        answer = ""
    elif family is VQA:
        truth = (_majority(row.targets),)
    elif family is CAPTION:
        truth = row.targets[:MAX_REFERENCES]
    return Card(
        example_id=row.example_id,
        image_id=row.image_id,
        verdict=_verdict(family, scored),
        ask=row.question,
        answer=answer,
        truth=tuple(truth),
        figures=_figures(family, scored),
        boxes=boxes,
        prompt=row.prompt,
        media=row.media,
    )


def _rectangles(family: Family, scored: Scored) -> tuple[Box, ...]:
    row, answer = scored.row, scored.line["answer"]
    if family is REFEXP:
        true = [cast(Sequence[float], row.true_box)]  # scoring refuses a row without
        predicted = [] if answer is None else [answer]
    elif family is LOCALIZATION or family is DETECTION:
        true = row.truth.get("boxes", [])
        predicted = answer if family is LOCALIZATION else answer["boxes"]
    else:
        return () if row.true_box is None else (_rectangle(row.true_box, role="asked"),)
    return tuple(_rectangle(b, role="true") for b in true) + tuple(_rectangle(b, role="predicted") for b in predicted)


def _verdict(family: Family, scored: Scored) -> str:
    if not family.ranking or family.ranking in family.errors:
        return "right" if family.ranking and scored.score(family.ranking) == 0 else ""
    first = family.metrics[0]
    score = scored.score(first if first in scored.line["scores"] else family.ranking)
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
    if family is VQA:
        return (f"score {scored.score('score'):.2f}",) if 0 < scored.score("score") < 1 else ()
    if not family.ranking or family.ranking in ("exact_match", "accuracy"):
        return ()
    return (f"{family.ranking.replace('_', ' ')} {scored.score(family.ranking):.2f}",)


def _majority(targets: Sequence[str]) -> str:
    counts = Counter(targets)
    answer = min(counts, key=lambda text: (-counts[text], text))
    if len(counts) == 1:
        return answer
    return f"{answer} ({counts[answer]} of {len(targets)})"


def _rectangle(box: Sequence[float], *, role: str) -> Box:
    y1, x1, y2, x2 = box
    return Box(round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2), role)
