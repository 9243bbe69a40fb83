"""VQA answers: the normalisation of the official VQA v2 evaluation and two scores built on it.

`vqa_score` is what the original Unified-IO 2 and GRIT report, `min(count / 3, 1)` over all annotators.
`vqa_accuracy` is the leaderboard's: the same, averaged over every way of leaving one annotator out, so one match of
ten gives 0.3. The quirks are the evaluation's own ("none" becomes 0, "its" and "it's" differ) and must stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from uio2.tasks.metrics.result import (
    DEFAULT_RESAMPLING,
    Id,
    Resampling,
    Result,
    check_references,
    mean_result,
    paired,
)

METRIC = "vqa"

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
# The official pattern has a look-behind misspelt as a look-ahead, which leaves: any point not followed by a digit.
_LOOSE_POINT = re.compile(r"\.(?!\d)")
# It also hands the value of re.UNICODE to `sub` as the count.
_MAX_POINTS = 32

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(i) for i, word in enumerate(_DIGITS)}
_ARTICLES = frozenset(("a", "an", "the"))

# Spellings restored when the apostrophe is missing, one word each. Where a word has several apostrophes, each
# spelling that lacks exactly one of them is restored.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _restorations() -> dict[str, str]:
    table = {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round
    for right in _CONTRACTIONS.split():
        for match in re.finditer("'", right):
            table[right[: match.start()] + right[match.end() :]] = right
    return table


_RESTORE = _restorations()


def _flatten(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str) -> str:
    """Removes punctuation, or puts a blank in its place where it joins two words ("ice-cream")."""
    out = text
    has_digit_comma = _DIGIT_COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        beside_blank = mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if beside_blank or has_digit_comma else " ")
    return _LOOSE_POINT.sub("", out, count=_MAX_POINTS)


def normalise_words(text: str) -> str:
    """Lower case, number words as digits, no articles, missing apostrophes restored, single blanks."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_RESTORE.get(word, word) for word in words if word not in _ARTICLES)


def normalise_answer(text: str) -> str:
    """The full normalisation; equal answers to a person are mostly equal strings after it."""
    return normalise_words(strip_punctuation(_flatten(text)))


def vqa_score(prediction: str, *, targets: str | Sequence[str]) -> float:
    """`min(matches / 3, 1)` against a list of annotators' answers; plain equality against a single string."""
    answer = normalise_answer(prediction)
    if isinstance(targets, str):
        return float(answer == normalise_answer(targets))
    return min(sum(answer == normalise_answer(t) for t in targets) / 3.0, 1.0)


def vqa_accuracy(prediction: str, *, targets: Sequence[str]) -> float:
    """The official leave-one-out accuracy of one question, in 0..1.

    Raises:
      ValueError: no annotator's answer was given.
    """
    if not targets:
        raise ValueError("targets is empty, expected the answers of at least one annotator")
    answers = [_flatten(t) for t in targets]
    answer = _flatten(prediction)
    # The official evaluation normalises only where annotators differ: "NO" against ten times "no" scores 0.
    if len(set(answers)) > 1:
        answers = [normalise_answer(a) for a in answers]
        answer = normalise_answer(answer)
    matches = [answer == a for a in answers]
    total = sum(matches)
    return sum(min((total - own) / 3.0, 1.0) for own in matches) / len(matches)


def vqa_results(
    predictions: Mapping[Id, str],
    *,
    references: Mapping[Id, Sequence[str]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Result]:
    """`score` (GRIT, Unified-IO 2) and `accuracy` (the leaderboard's); a list of one answer is a plain truth for both.

    An empty prediction is an answer like any other.

    Raises:
      MetricError: a question without answers.
    """
    pairs = paired(predictions, references=references, metric=METRIC)
    check_references(pairs, metric=METRIC)
    scores = {"score": vqa_score, "accuracy": vqa_accuracy}
    ids = [p.id for p in pairs]
    single = [len(p.reference) == 1 for p in pairs]
    return {
        figure: mean_result(
            f"{METRIC}/{figure}",
            ids=ids,
            # One answer cannot be given three times: both formulas would cap at 1/3 or 0.
            scores=[
                vqa_score(p.prediction, targets=p.reference[0]) if one else score(p.prediction, targets=p.reference)
                for p, one in zip(pairs, single, strict=True)
            ],
            resampling=resampling,
        )
        for figure, score in scores.items()
    }
