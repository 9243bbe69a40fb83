"""The reigning version of a model, with what a new night needs: a checkpoint to start from, a score to beat."""

from __future__ import annotations

import dataclasses

from uio2.pipeline import registry
from uio2.pipeline.aliases import CHAMPION
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.lineage import resolve
from uio2.pipeline.stage import UsageError
from uio2.pipeline.store import Store


@dataclasses.dataclass(frozen=True)
class Champion:
    """The champion of a model.

    Attributes:
      reference: `MODEL@N`.
      checkpoint: what was promoted; its `uri` as a `Source` is that artifact, lineage goes through it.
      score: the figures that it was promoted by: the input `champion` of a promote stage whose model was scored on the
        same data. On other data, score the checkpoint again and give that.
    """

    reference: str
    checkpoint: Artifact
    score: Artifact


def find_champion(store: Store, model: str) -> Champion | None:
    """The champion of a model; None if the model has none yet.

    Raises:
      UsageError: its checkpoint or its score is gone from the store.
    """
    version = registry.find_version(store, model, CHAMPION)
    if version is None:
        return None
    reference = f"{model}@{version.number}"
    record, _ = resolve(store, reference)
    found: dict[str, Artifact] = {}
    for key in ("train", "score"):
        given = record["inputs"][key]
        artifact = store.find(given["fingerprint"], name=given["name"])
        if artifact is None:
            raise UsageError(
                f"champion {reference}: its {key} {given['name']} {given['fingerprint'][:12]} is not in the store; "
                f"make another version champion with: uio2 rollback {model}"
            )
        found[key] = artifact
    return Champion(reference, checkpoint=found["train"], score=found["score"])
