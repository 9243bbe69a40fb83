"""A stage: one command, one frozen spec, named inputs, one output artifact.

`StageType` names the code (by string, so that declaring a pipeline imports nothing heavy); `Stage` is
one use of it in a pipeline. The fingerprint covers the type's name and code version, the resolved spec
and the digests of the inputs: equal fingerprints mean interchangeable outputs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from uio2.pipeline.artifact import Artifact, canonical_json


class StageError(Exception):
    """A stage cannot run as asked: names the key, the value, what was expected and the fix."""


@dataclasses.dataclass(frozen=True)
class StageContext:
    """What a running stage gets.

    Attributes:
      inputs: published artifacts by input name.
      out: an empty directory; all it holds when `run` returns becomes the artifact.
      work: scratch that survives a kill and is handed to the next attempt; removed after publishing.
      progress: call as `progress(done, total, text)`; cheap enough for every step.
      metric: call as `metric(step, {"loss": 1.0})`; goes to the stage's MLflow run.
    """

    inputs: Mapping[str, Artifact]
    out: Path
    work: Path
    progress: Callable[[int, int, str], None]
    metric: Callable[[int, Mapping[str, float]], None]


class RunStage(Protocol):
    """The signature behind `StageType.run`; returns the stats that go into the record."""

    def __call__(self, spec: Any, context: StageContext) -> Mapping[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class StageType:
    """A kind of stage.

    Attributes:
      name: short name, also the CLI word, for example `train`.
      kind: the kind of artifact it makes (`uio2.pipeline.artifact.KINDS`).
      spec: a frozen dataclass; fields are JSON values, strings, tuples or nested frozen dataclasses.
      run: `"package.module:function"`, imported only where the stage runs.
      code_version: raise it when the same spec would now give another output.
      volatile: glob patterns of output files that do not enter the digest.
      registers_model: a published output becomes a version in the model registry.
    """

    name: str
    kind: str
    spec: type
    run: str
    code_version: str = "1"
    volatile: tuple[str, ...] = ()
    registers_model: bool = False

    def load(self) -> RunStage:
        """Imports and returns the function that runs the stage."""
        module, _, function = self.run.partition(":")
        return getattr(importlib.import_module(module), function)


@dataclasses.dataclass(frozen=True)
class Source:
    """Files from outside the store (a COCO folder); their content digest stands for them."""

    path: str


@dataclasses.dataclass(frozen=True)
class Stage:
    """One node of a pipeline.

    Attributes:
      name: unique in the pipeline, for example `train`.
      type: what runs.
      spec: an instance of `type.spec`.
      inputs: other stages of the pipeline, or sources, by input name.
      version: the recipe's version.
    """

    name: str
    type: StageType
    spec: Any
    inputs: Mapping[str, Stage | Source] = dataclasses.field(default_factory=dict)
    version: str = "1"

    def fingerprint(self, input_digests: Mapping[str, str]) -> str:
        """Hex sha256 of name, code version, spec and input digests; nothing about place or time."""
        value = {
            "stage": self.type.name,
            "code_version": self.type.code_version,
            "spec": spec_to_json(self.spec),
            "inputs": dict(input_digests),
        }
        return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A named DAG; `stages` is in an order where every input comes before its use."""

    name: str
    stages: tuple[Stage, ...]


def spec_to_json(spec: Any) -> Any:
    """A spec as plain JSON values (tuples become lists)."""
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        return {f.name: spec_to_json(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
    if isinstance(spec, Mapping):
        return {str(k): spec_to_json(v) for k, v in spec.items()}
    if isinstance(spec, (list, tuple)):
        return [spec_to_json(v) for v in spec]
    if spec is None or isinstance(spec, (str, int, float, bool)):
        return spec
    raise StageError(f"spec value {spec!r} of type {type(spec).__name__} is not JSON; use plain values")
