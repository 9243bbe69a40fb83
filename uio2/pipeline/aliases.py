"""Which version of a model is `champion`, which `challenger`, and how that came: pure transitions of one small value.

Kept as `models/<name>/aliases.json`, written by one rename under the model's lock (`uio2.pipeline.registry`), so that
aliases and the events that explain them are never at odds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

CHAMPION, CHALLENGER = "champion", "challenger"
ROLLBACK = "rollback"


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that was decided about a version.

    Attributes:
      kind: `champion` (it took the title), `challenger` (it may not yet), or `rollback` (a person gave it back).
      number: the version.
      before: the champion until then; None if there was none.
      time: seconds since the epoch.
      reason: one sentence.
      decision: fingerprint of the model artifact that holds the evidence; "" for a rollback.
    """

    kind: str
    number: int
    before: int | None
    time: float
    reason: str
    decision: str = ""


@dataclasses.dataclass(frozen=True)
class Aliases:
    """The aliases of one model, with their history, oldest first."""

    champion: int | None = None
    challenger: int | None = None
    events: tuple[Event, ...] = ()

    def names(self) -> dict[str, int]:
        """Alias -> version, those that are held."""
        held = {CHAMPION: self.champion, CHALLENGER: self.challenger}
        return {name: number for name, number in held.items() if number is not None}

    def state(self) -> dict[str, int]:
        """Aliases, and how many events there are: what differs whenever something was decided."""
        return self.names() | {"events": len(self.events)}

    def of(self, number: int) -> tuple[str, ...]:
        """The aliases of a version."""
        return tuple(name for name, held in self.names().items() if held == number)

    def knows(self, decision: str) -> bool:
        """Whether what this model artifact decided has been carried out."""
        return any(event.decision == decision for event in self.events)

    def crowned(self, number: int, *, time: float, reason: str, decision: str) -> Aliases:
        """With this version as champion; it is no challenger any more."""
        event = Event(CHAMPION, number, self.champion, time, reason, decision)
        challenger = None if self.challenger == number else self.challenger
        return Aliases(number, challenger, (*self.events, event))

    def challenged(self, number: int, *, time: float, reason: str, decision: str) -> Aliases:
        """With this version as challenger, unless it is the champion."""
        event = Event(CHALLENGER, number, self.champion, time, reason, decision)
        challenger = self.challenger if self.champion == number else number
        return Aliases(self.champion, challenger, (*self.events, event))

    def rolled_back(self, number: int, *, time: float, reason: str) -> Aliases:
        """With an earlier version as champion again."""
        event = Event(ROLLBACK, number, self.champion, time, reason)
        challenger = None if self.challenger == number else self.challenger
        return Aliases(number, challenger, (*self.events, event))

    def predecessor(self) -> int | None:
        """Who was champion before the present one took the title; None if nobody was.

        Rolled back twice, it goes back twice: a version given up by a rollback is passed over.
        """
        reigns: list[int] = []
        for event in self.events:
            if event.kind == ROLLBACK and event.number in reigns:
                del reigns[reigns.index(event.number) + 1 :]
            elif event.kind != CHALLENGER and event.number not in reigns[-1:]:
                reigns.append(event.number)
        return reigns[-2] if len(reigns) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """As in the file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Aliases:
        """The inverse of `to_json`."""
        return cls(value["champion"], value["challenger"], tuple(Event(**event) for event in value["events"]))
