"""What a run would do, without doing it: cached, would run, or waits for an input that would run first.

A stage's fingerprint needs the digests of its inputs, so behind a stage that must run nothing is known for certain:
if its new output turns out equal to the old one, everything after it is still cached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from uio2.pipeline.artifact import Artifact
from uio2.pipeline.changes import Change, differences
from uio2.pipeline.runner import published, recipe_of
from uio2.pipeline.sources import Progress, source_artifact
from uio2.pipeline.stage import Pipeline, Source, Stage, StageError, UsageError
from uio2.pipeline.store import Store

CACHED, RUN, WAITS = "cached", "run", "waits"


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """What would happen to one stage.

    Attributes:
      stage: its name.
      status: "cached", "run" or "waits".
      reason: one line for a person.
      changes: fields that differ from the newest record of this name; empty if there is none.
      artifact: the published output, if cached.
      fingerprint: unknown ("") while an input is.
    """

    stage: str
    status: str
    reason: str
    changes: tuple[Change, ...] = ()
    artifact: Artifact | None = None
    fingerprint: str = ""


def upstream(pipeline: Pipeline, targets: Sequence[str]) -> tuple[Stage, ...]:
    """The named stages and everything they need, in the pipeline's order. UsageError for an unknown name."""
    names = [stage.name for stage in pipeline.stages]
    unknown = [target for target in targets if target not in names]
    if unknown:
        raise UsageError(f"pipeline {pipeline.name} has no stage {unknown[0]!r}; it has {', '.join(names)}")
    wanted = set(targets)
    for stage in reversed(pipeline.stages):
        if stage.name in wanted:
            wanted |= {value.name for value in stage.inputs.values() if isinstance(value, Stage)}
    return tuple(stage for stage in pipeline.stages if stage.name in wanted)


def check_order(pipeline: Pipeline) -> None:
    """StageError if a name is used twice, or an input does not come before its use."""
    seen: dict[str, Stage] = {}
    for stage in pipeline.stages:
        for key, value in stage.inputs.items():
            if isinstance(value, Stage) and seen.get(value.name) is not value:
                raise StageError(f"{pipeline.name}/{stage.name}: input {key}, {value.name}, is no stage before it")
        if stage.name in seen:
            raise StageError(f"pipeline {pipeline.name} has two stages named {stage.name!r}")
        seen[stage.name] = stage


def resolve_sources(
    stages: Sequence[Stage], *, store: Store, progress: Progress | None = None
) -> dict[Source, Artifact]:
    """The artifact of every source the stages read; each is hashed once."""
    sources = {value: key for stage in stages for key, value in stage.inputs.items() if isinstance(value, Source)}
    return {
        source: source_artifact(source, store=store, name=name, progress=progress) for source, name in sources.items()
    }


def plan(pipeline: Pipeline, *, store: Store, stages: Sequence[Stage] | None = None) -> tuple[StagePlan, ...]:
    """One `StagePlan` per stage, in order."""
    check_order(pipeline)
    chosen = pipeline.stages if stages is None else stages
    sources = resolve_sources(chosen, store=store)
    known: dict[str, Artifact] = {}
    plans = []
    for stage in chosen:
        inputs = {
            key: sources[value] if isinstance(value, Source) else known.get(value.name)
            for key, value in stage.inputs.items()
        }
        item = _plan_stage(stage, inputs, name=f"{pipeline.name}/{stage.name}", store=store)
        if item.artifact:
            known[stage.name] = item.artifact
        plans.append(item)
    return tuple(plans)


def _plan_stage(stage: Stage, inputs: Mapping[str, Artifact | None], *, name: str, store: Store) -> StagePlan:
    ready = {key: artifact for key, artifact in inputs.items() if artifact is not None}
    waiting = sorted(inputs.keys() - ready.keys())
    newest = store.newest(name)
    changes = differences(newest[0], recipe_of(stage, ready), unknown=waiting) if newest else ()
    if waiting:
        names = ", ".join(sorted({stage.inputs[key].name for key in waiting}))  # type: ignore[union-attr]  # only stages wait
        return StagePlan(stage.name, WAITS, f"would run unless the new output of {names} is the same", changes)
    fingerprint = stage.fingerprint({key: artifact.digest for key, artifact in ready.items()})
    found = published(store, fingerprint, name=name, inputs=ready)
    if found:
        return StagePlan(stage.name, CACHED, f"published as {found.name}@{found.version}", (), found, fingerprint)
    reason = "never published" if newest is None else "changed" if changes else "its source lies elsewhere now"
    return StagePlan(stage.name, RUN, reason, changes, None, fingerprint)
