"""Dropped records: each has a reason, is counted and is kept.

A `Letter` says what was dropped, why, and where it came from. `drops` counts everything that went with it (an
image takes its captions along), so that records in = written + dropped can be checked kind by kind. A letter with
`fault=False` is a legitimate absence (an annotation of an image outside a deliberate subset): kept and
counted, but not held against the threshold.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from uio2.pipeline.stage import StageError

SAMPLES = 3
# Reasons that say a key or an id came before: an error where `duplicates` of a spec is `error`.
DUPLICATES = ("duplicate_clip", "duplicate_id", "duplicate_image", "duplicate_key", "image_in_two_splits")
BYTES = "bytes"


class BadRecord(Exception):
    """A record that must be dropped; `reason` is a short name to count by, `fault` as in `Letter`.

    `data` holds the bytes that were at fault, once `about` has seen them.
    """

    def __init__(self, reason: str, error: str, *, fault: bool = True):
        super().__init__(reason, error)
        self.reason = reason
        self.error = error
        self.fault = fault
        self.data: bytes | None = None


@contextmanager
def about(data: bytes) -> Iterator[None]:
    """Tells a `BadRecord` from inside which bytes were at fault, so that they can be kept on request."""
    try:
        yield
    except BadRecord as bad:
        bad.data = data if bad.data is None else bad.data
        raise


@dataclasses.dataclass(frozen=True)
class Letter:
    """One dropped record.

    Attributes:
      key: the record's id.
      kind: what was at fault, for example `image` or `question`.
      stage: `read`, `join` or `write`.
      reason: a short name to count by.
      error: what exactly was wrong.
      source: file and place it came from.
      drops: how many records of each kind are lost by it.
      fault: whether it counts towards the threshold.
      kept: the bytes at fault, if they were asked for: `{file, size}`, the file below `dead_letters/`, size in bytes.
    """

    key: str
    kind: str
    stage: str
    reason: str
    error: str
    source: str
    drops: Mapping[str, int]
    fault: bool = True
    kept: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """One line, keys sorted; without `kept` where there is none."""
        value = dataclasses.asdict(self)
        if self.kept is None:
            del value["kept"]
        return json.dumps(value, sort_keys=True, ensure_ascii=False)

    @property
    def file(self) -> str:
        """Which file of `dead_letters/` keeps it."""
        return f"{self.stage}-{self.kind}-{self.reason}.jsonl"


def check_duplicate(letter: Letter, *, duplicates: str) -> None:
    """Fails the build at a key or id that came before, where `duplicates` is `error`.

    Raises:
      StageError: naming both places.
    """
    if duplicates == "error" and letter.reason in DUPLICATES:
        raise StageError(
            f"{letter.kind} {letter.key} ({letter.source}): {letter.reason}: {letter.error}. Mend the source, or set "
            "duplicates = 'drop' to keep the first and count the others"
        )


def dropped_by_reason(letters: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """kind -> reason -> count; a record lost with its image counts as `image:REASON`."""
    counts: dict[str, Counter[str]] = {}
    for letter in letters:
        for kind, n in letter["drops"].items():
            reason = letter["reason"] if kind == letter["kind"] else f"{letter['kind']}:{letter['reason']}"
            counts.setdefault(kind, Counter())[reason] += n
    return {kind: dict(sorted(c.items())) for kind, c in sorted(counts.items())}


def check_threshold(
    letters: Iterable[Mapping[str, Any]], *, seen: Mapping[str, int], limit: float, kept_in: str
) -> None:
    """Fails the build when faults exceed the allowed share of any kind.

    Args:
      letters: all dropped records.
      seen: records in, by kind.
      limit: allowed share, 0..1.
      kept_in: where the dead letters can be read, for the message.

    Raises:
      StageError: naming the kind, the share, the reasons and the first few records.
    """
    faults: dict[str, list[Mapping[str, Any]]] = {}
    for letter in letters:
        if letter["fault"]:
            faults.setdefault(letter["kind"], []).append(letter)
    for kind, bad in sorted(faults.items()):
        lost = sum(letter["drops"].get(kind, 0) for letter in bad)
        share = lost / max(1, seen.get(kind, 0))
        if share > limit:
            reasons: Counter[str] = Counter()
            for letter in bad:
                reasons[letter["reason"]] += letter["drops"].get(kind, 0)
            told = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
            first = "; ".join(f"{b['key']}: {b['error']} ({b['source']})" for b in bad[:SAMPLES])
            raise StageError(
                f"{lost} of {seen.get(kind, 0)} {kind} records were dropped ({share:.1%}), more than "
                f"max_dropped_fraction = {limit:.1%} allows: {told}. First: {first}. All are in {kept_in}. "
                "Mend the source or raise max_dropped_fraction"
            )
