"""A stage: one command, one frozen spec, named inputs, one output artifact.

`StageType` names the code (by string, so that declaring a pipeline imports nothing heavy); `Stage` is
one use of it in a pipeline. The fingerprint covers the type's name and code version, the resolved spec
and the digests of the inputs: equal fingerprints mean interchangeable outputs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from uio2.pipeline.artifact import Artifact, canonical_json


class StageError(Exception):
    """A stage cannot run as asked: names the key, the value, what was expected and the fix."""


class UsageError(StageError):
    """What was asked for cannot be meant: an unknown name, a missing option, a value of the wrong type."""


@dataclasses.dataclass(frozen=True)
class StageContext:
    """What a running stage gets.

    Attributes:
      inputs: published artifacts by input name.
      out: an empty directory; all it holds when `run` returns becomes the artifact.
      work: scratch that survives a kill and is handed to the next attempt; removed after publishing.
      progress: call as `progress(done, total, text)`; cheap enough for every step.
      metric: call as `metric(step, {"loss": 1.0})`; goes to the stage's MLflow run.
      logs: a folder, to be made when needed, for what is worth keeping of this execution and is no part of the
        artifact; None where nothing is kept.
    """

    inputs: Mapping[str, Artifact]
    out: Path
    work: Path
    progress: Callable[[int, int, str], None]
    metric: Callable[[int, Mapping[str, float]], None]
    logs: Path | None = None


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
    """Files from outside the store (a COCO folder); their content digest stands for them.

    Attributes:
      path: local, or a URL (`uio2.pipeline.places`); the query of a signed one is not kept here.
    """

    path: str

    def __post_init__(self) -> None:
        if "://" in self.path:
            from uio2.pipeline.places.remote import public

            object.__setattr__(self, "path", public(self.path))


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


def spec_from_json(cls: type, value: Any) -> Any:
    """The inverse of `spec_to_json`: rebuilds `cls`, nested dataclasses and tuples from its type hints."""
    if not dataclasses.is_dataclass(cls):
        raise StageError(f"spec class {cls!r} is not a dataclass; declare it with @dataclass(frozen=True)")
    hints = typing.get_type_hints(cls)
    # Fields a spec derives from others (`init=False`) enter the fingerprint and are derived again here.
    derived = {field.name for field in dataclasses.fields(cls) if not field.init}
    return cls(**{k: _from_json(hints.get(k, Any), item) for k, item in value.items() if k not in derived})


def _from_json(hint: Any, value: Any) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if isinstance(value, Mapping):
        nested = next((o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)), None)
        return spec_from_json(nested, value) if nested else dict(value)
    if isinstance(value, list):
        plain_list = any(option is list or typing.get_origin(option) is list for option in options)
        args = next((typing.get_args(o) for o in options if typing.get_args(o)), (Any,))
        hints = args if len(args) == len(value) and Ellipsis not in args else (args[0],) * len(value)
        items = [_from_json(item_hint, item) for item_hint, item in zip(hints, value, strict=True)]
        return items if plain_list else tuple(items)
    return value


def flatten(value: Any, *, prefix: str = "") -> dict[str, Any]:
    """Nested JSON objects as `{"a.b": leaf}`; lists and empty objects stay leaves. For diffs and MLflow parameters."""
    if not isinstance(value, Mapping) or (prefix and not value):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, prefix=f"{prefix}.{key}" if prefix else str(key))
    return flat
