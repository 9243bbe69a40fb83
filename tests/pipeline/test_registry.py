"""Versions and aliases: who is champion, how that came, and back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.pipeline.conftest import REPOSITORY
from uio2.pipeline import registry
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.lineage import resolve
from uio2.pipeline.stage import UsageError

A, B, C = "a" * 64, "b" * 64, "c" * 64


def model(checkpoint: str, *, promoted: bool = True, decision: str = "", **stats) -> Artifact:
    """What a promote stage publishes; each decision is an artifact of its own."""
    fingerprint = (decision or checkpoint)[:1] * 64
    stats |= {"promoted": promoted, "checkpoint": checkpoint, "reasons": ["said so"]}
    return Artifact("model", "m/promote", "1", "/nowhere", fingerprint, fingerprint, stats)


def held(store) -> tuple[int | None, int | None]:
    aliases = registry.read_aliases(store, "m")
    return aliases.champion, aliases.challenger


def test_the_first_is_champion_a_lesser_one_challenges_a_better_one_takes_over(store):
    first = registry.enter(store, model="m", artifact=model(A, champion=""))
    assert (first.version.number, first.given) == (1, "champion")
    second = registry.enter(store, model="m", artifact=model(B, promoted=False, champion=A))
    assert (second.version.number, second.given) == (2, "challenger")
    assert held(store) == (1, 2)
    again = registry.enter(store, model="m", artifact=model(B, decision="d", champion=A))  # judged once more
    assert (again.version.number, again.version.new, again.given) == (2, False, "champion")
    assert held(store) == (2, None)
    events = registry.read_aliases(store, "m").events
    assert [(e.kind, e.number, e.before) for e in events] == [
        ("champion", 1, None), ("challenger", 2, 1), ("champion", 2, 1),
    ]  # fmt: skip
    assert registry.find_version(store, "m", "champion").checkpoint == B


def test_whoever_was_compared_with_a_former_champion_only_challenges(store):
    registry.enter(store, model="m", artifact=model(A, champion=""))
    registry.enter(store, model="m", artifact=model(B, champion=A))
    late = registry.enter(store, model="m", artifact=model(C, champion=A))
    assert held(store) == (2, 3)
    assert "judge it again" in late.reason
    assert "m@2 is champion now" in late.reason


def test_whoever_was_compared_with_nothing_takes_no_title_from_anybody(store):
    registry.enter(store, model="m", artifact=model(A))
    unseen = registry.enter(store, model="m", artifact=model(B))
    assert held(store) == (1, 2)
    assert "not compared with m@1, the champion; `uio2 promote` does that" in unseen.reason
    registry.enter(store, model="m", artifact=model(A, decision="e"))  # the champion itself, judged by another gate
    assert held(store) == (1, 2)


def test_rolling_back_goes_back_one_reign_after_another_and_lasts(store):
    for checkpoint, beaten in ((A, ""), (B, A), (C, B)):
        registry.enter(store, model="m", artifact=model(checkpoint, champion=beaten))
    assert registry.rollback(store, "m", reason="answers in French").champion == 2
    registry.enter(store, model="m", artifact=model(C, champion=B))  # a cached stage run again crowns nobody
    assert held(store) == (2, None)
    assert registry.rollback(store, "m").champion == 1
    with pytest.raises(UsageError, match=r"first champion of m: .* --to, one of \[1, 2, 3\]"):
        registry.rollback(store, "m")
    assert registry.rollback(store, "m", to=3).champion == 3
    for number, words in ((3, "champion already"), (9, r"no version 9 of m; there are: \[1, 2, 3\]")):
        with pytest.raises(UsageError, match=words):
            registry.rollback(store, "m", to=number)
    with pytest.raises(UsageError, match="no model 'x'"):
        registry.rollback(store, "x")
    events = registry.read_aliases(store, "m").events
    assert next(event.reason for event in events if event.kind == "rollback") == "answers in French"


def test_versions_from_before_aliases_were_crowned_one_after_another(store):
    for checkpoint, beaten in ((A, ""), (B, A)):
        registry.enter(store, model="m", artifact=model(checkpoint, champion=beaten))
    (store.root / "models" / "m" / "aliases.json").unlink()
    assert held(store) == (2, None)
    registry.enter(store, model="m", artifact=model(A))
    assert held(store) == (2, None)
    assert registry.rollback(store, "m").champion == 1


ENTER = """
import sys
from tests.pipeline.test_registry import model
from uio2.pipeline import registry
from uio2.pipeline.store import Store
for letter in sys.argv[2]:
    registry.enter(Store(sys.argv[1]), model="m", artifact=model(letter * 64, champion=""))
"""


def test_several_processes_at_once_make_one_champion(store):
    processes = [
        subprocess.Popen([sys.executable, "-c", ENTER, str(store.root), letters], cwd=REPOSITORY)
        for letters in ("abcd", "dcba", "efab")
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert [version.number for version in registry.versions(store, "m")] == [1, 2, 3, 4, 5, 6]
    aliases = registry.read_aliases(store, "m")
    assert [event.number for event in aliases.events if event.kind == "champion"] == [1]
    assert len(aliases.events) == 6
    assert aliases.champion == 1


def test_an_alias_is_accepted_where_a_version_is(store, toys, run):
    run(toys())
    run(toys("d/toy.ToySpec.text='better'"))
    assert resolve(store, "toys@champion") == resolve(store, "toys@1")
    assert resolve(store, "toys@challenger") == resolve(store, "toys@2")
    registry.rollback(store, "toys", to=2)
    assert resolve(store, "toys@champion") == resolve(store, "toys@2")
    assert resolve(store, "toys") == resolve(store, "toys@2")
    with pytest.raises(UsageError, match="there are: toys@1, toys@2, toys@champion"):
        resolve(store, "toys@challenger")
    assert json.loads((store.root / "models" / "toys" / "aliases.json").read_text())["champion"] == 2
