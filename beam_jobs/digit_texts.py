"""What can be said about a scene of digits: captions, questions with answers, referring expressions.

The wording is a small closed set, so that a model of a few million parameters can learn it in minutes, and
every statement is true of exactly one reading of the scene: digits of a scene differ in class and in colour,
and a place ("the leftmost digit") is named only where `CLEAR` pixels separate it from the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from beam_jobs.digit_scenes import DIGIT_CLASSES, Placed

CLEAR = 12
COUNT_WORDS = {1: "one digit", 2: "two digits", 3: "three digits", 4: "four digits", 5: "five digits"}


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with its one right answer; `question_type` and `answer_type` as VQA v2 spells them."""

    text: str
    answer: str
    question_type: str
    answer_type: str


def _joined(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _a(digit: int) -> str:
    return f"an {digit}" if digit == 8 else f"a {digit}"


def captions(objects: Sequence[Placed]) -> list[str]:
    """Five captions (as COCO has), digits named from left to right."""
    row = sorted(objects, key=lambda p: (p.left + p.size / 2, p.top))
    coloured = _joined([f"a {p.colour} {p.digit}" for p in row])
    plain = _joined([_a(p.digit) for p in row])
    count = COUNT_WORDS.get(len(row), f"{len(row)} digits")
    return [
        coloured,
        f"a picture of {coloured}",
        f"{count}: {coloured}",
        f"handwritten {_joined([str(p.digit) for p in row])} on a dark background",
        f"there is {plain}",
    ]


def _exists(rng: np.random.Generator, objects: Sequence[Placed]) -> Question:
    present = [p.digit for p in objects]
    absent = [d for d in range(DIGIT_CLASSES) if d not in present]
    yes = bool(rng.integers(2))
    digit = int(rng.choice(present if yes else absent))
    return Question(f"Is there {_a(digit)}?", "yes" if yes else "no", "is there a", "yes/no")


def _count(rng: np.random.Generator, objects: Sequence[Placed]) -> Question:
    return Question("How many digits are there?", str(len(objects)), "how many", "number")


def _digit_of_colour(rng: np.random.Generator, objects: Sequence[Placed]) -> Question:
    one = objects[int(rng.integers(len(objects)))]
    return Question(f"Which digit is {one.colour}?", str(one.digit), "which", "number")


def _colour_of_digit(rng: np.random.Generator, objects: Sequence[Placed]) -> Question:
    one = objects[int(rng.integers(len(objects)))]
    return Question(f"What color is the {one.digit}?", one.colour, "what color is the", "other")


QUESTION_KINDS = (_count, _digit_of_colour, _colour_of_digit, _exists)


def questions(rng: np.random.Generator, objects: Sequence[Placed], *, number: int) -> list[Question]:
    """`number` questions of different kinds (at most four), in the order of the kinds."""
    kinds = sorted(rng.permutation(len(QUESTION_KINDS))[:number])
    return [QUESTION_KINDS[int(k)](rng, objects) for k in kinds]


def _places(one: Placed, others: Sequence[Placed]) -> list[str]:
    def centre(p: Placed) -> tuple[float, float]:
        return p.left + p.size / 2, p.top + p.size / 2

    x, y = centre(one)
    rest = [centre(p) for p in others]
    named = {
        "leftmost": all(x + CLEAR <= ox for ox, _ in rest),
        "rightmost": all(x - CLEAR >= ox for ox, _ in rest),
        "topmost": all(y + CLEAR <= oy for _, oy in rest),
        "bottommost": all(y - CLEAR >= oy for _, oy in rest),
    }
    return [word for word, holds in named.items() if holds and rest]


def expressions(rng: np.random.Generator, one: Placed, others: Sequence[Placed]) -> list[str]:
    """Two or three expressions that name `one` and none of `others`: by class, by colour, then by both or by place."""
    spoken = [f"the {one.digit}", f"the {one.colour} digit"]
    places = _places(one, others)
    kind = int(rng.integers(3))
    if kind == 0:
        spoken.append(f"the {one.colour} {one.digit}")
    elif kind == 1 and places:
        spoken.append(f"the {places[int(rng.integers(len(places)))]} digit")
    return spoken
