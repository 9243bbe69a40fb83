"""Judging one evaluated run: its score against the champion's, as a pipeline of the promote stage alone.

Reproduces: nothing. Cost: a second. Run: uio2 promote digits/score --improve vqa/exact_match
"""

from __future__ import annotations

import hashlib

from uio2.evaluate.champion import find_champion
from uio2.evaluate.compare.runs import find_run
from uio2.evaluate.specs import PROMOTE, PromoteSpec
from uio2.pipeline.artifact import canonical_json
from uio2.pipeline.stage import Pipeline, Source, Stage, UsageError, spec_to_json
from uio2.pipeline.store import Store


def judging(reference: str, spec: PromoteSpec, *, store: Store) -> Pipeline:
    """The pipeline that decides about the run behind `reference`, a checkpoint, score or model of the store.

    It is named for the model, and its stage's version for the conditions, so that each gate is a recipe of its own.

    Raises:
      UsageError: the run was not scored, or its checkpoint is gone.
    """
    run = find_run(store, reference)
    if run.checkpoint is None:
        raise UsageError(f"{reference}: its checkpoint is not in {store.root} any more; only what is there is promoted")
    inputs: dict[str, Stage | Source] = {"train": Source(str(run.checkpoint)), "score": Source(run.score.uri)}
    if champion := find_champion(store, spec.model_name):
        inputs["champion"] = Source(champion.score.uri)
    gate = hashlib.sha256(canonical_json(spec_to_json(spec)).encode()).hexdigest()[:8]
    return Pipeline(spec.model_name, (Stage("promote", PROMOTE, spec, inputs, version=f"gate-{gate}"),))
