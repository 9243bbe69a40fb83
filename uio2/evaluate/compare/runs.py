"""What belongs to a run that is compared: found from any of its artifacts through the records of the store.

A reference names a model version, or an artifact: a checkpoint, its predictions, their score, the report. From there
the score is looked for above it, else the newest one that was made from it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uio2.evaluate.summary import PER_EXAMPLE, MetricRow, metric_rows, read_metrics
from uio2.pipeline.artifact import SOURCE, Artifact
from uio2.pipeline.lineage import resolve
from uio2.pipeline.stage import UsageError, flatten
from uio2.pipeline.store import Record, Store, artifact_of

HISTORY = "history.jsonl"
Found = tuple[Record, Path]


@dataclasses.dataclass(frozen=True)
class Run:
    """One side of a comparison.

    Attributes:
      label: the reference it was asked for by.
      score: its score artifact.
      predictions: what was scored.
      checkpoint: folder of the checkpoint; None if it is no longer in the store.
      datasets: inputs of the score by name, for pictures.
      recipe: every setting of every stage behind it, `stage.field`.
      rows: its figures by key.
    """

    label: str
    score: Artifact
    predictions: Path
    checkpoint: Path | None
    datasets: Mapping[str, Artifact]
    recipe: Mapping[str, Any]
    rows: Mapping[str, MetricRow]

    def tasks(self) -> dict[str, Any]:
        """What is said of each task in `metrics.json`."""
        return read_metrics(self.score.path)["tasks"]

    def examples(self, task: str) -> dict[str, Any]:
        """Lines of per_example.jsonl of one task by example id."""
        with open(self.score.path / PER_EXAMPLE, encoding="utf-8") as lines:
            values = (json.loads(line) for line in lines)
            return {value["example_id"]: value for value in values if value["task"] == task}


def find_run(store: Store, reference: str) -> Run:
    """The run behind a reference.

    Raises:
      UsageError: nothing of that name, or nothing scored belongs to it.
    """
    start = resolve(store, reference)
    score = _score_of(store, start)
    if score is None:
        raise UsageError(f"{reference}: no score was made from it; evaluate it first, for example with `uio2 score`")
    record, path = score
    inputs = {key: _input(store, value) for key, value in record["inputs"].items() if value["kind"] != SOURCE}
    predictions = inputs.get("predictions")
    if predictions is None:
        raise UsageError(f"{reference}: the predictions that {record['name']} scored are gone from the store")
    checkpoint = predictions[0]["inputs"].get("checkpoint")
    found = _input(store, checkpoint) if checkpoint else None
    return Run(
        label=reference,
        score=artifact_of(record, path),
        predictions=predictions[1],
        checkpoint=found[1] if found else None,
        datasets={key: artifact_of(*item) for key, item in inputs.items() if item and item[0]["kind"] == "dataset"},
        recipe=_recipe(store, score),
        rows={row.key: row for row in metric_rows(read_metrics(path)["metrics"])},
    )


def _score_of(store: Store, start: Found) -> Found | None:
    """The score among what the start was made from, or the newest that was made from it."""
    if start[0]["kind"] == "model" and "score" in start[0]["inputs"]:  # the champion's score is above it as well
        return _input(store, start[0]["inputs"]["score"])
    above = [item for item in _upstream(store, start) if item[0]["stage"] == "score"]
    if above:
        return above[0]
    made = [
        item
        for item in store.records()
        if item[0]["stage"] == "score"
        and any(parent[0]["fingerprint"] == start[0]["fingerprint"] for parent in _upstream(store, item))
    ]
    return max(made, key=lambda item: item[0]["created"], default=None)


def _upstream(store: Store, start: Found) -> Iterator[Found]:
    """The start and every artifact it was made from, each once, nearest first."""
    seen, waiting = set(), [start]
    while waiting:
        item = waiting.pop(0)
        if item[0]["fingerprint"] in seen:
            continue
        seen.add(item[0]["fingerprint"])
        yield item
        for value in item[0]["inputs"].values():
            if value["kind"] != SOURCE and (found := _input(store, value)):
                waiting.append(found)


def _input(store: Store, value: Mapping[str, Any]) -> Found | None:
    return store.newest(value["name"], version=value["fingerprint"])


def _recipe(store: Store, score: Found) -> dict[str, Any]:
    """Settings, code versions and sources of every stage behind the score."""
    values: dict[str, Any] = {}
    for record, _ in _upstream(store, score):
        stage = record["name"].partition("/")[2]
        values |= {f"{stage}.{key}": value for key, value in flatten(record["spec"]).items() if key}
        values[f"{stage}.code_version"] = record["code_version"]
        values |= {
            f"{stage}.{key} (digest)": value["digest"][:12]
            for key, value in record["inputs"].items()
            if value["kind"] == SOURCE
        }
    return dict(sorted(values.items()))
