"""Any datasets of the user's by name, each `raw-NAME -> build-NAME`, without a pipeline that goes on to a model.

Reproduces: nothing; it makes what tasks read (`uio2 tasks` says which).
Cost: about 300 images, or some thousand texts, a second and core. Score: none.
Run: uio2 build alpaca --source alpaca.json
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.builders import BUILDERS, Builder
from beam_jobs.specs import IMPORT_FILES
from uio2.pipeline.gin_config import GinConfig
from uio2.pipeline.stage import Pipeline, Source, Stage, UsageError

NAME = "datasets"
CONFIG = "configs/pipelines/datasets.gin"


def check_names(names: Sequence[str]) -> None:
    """UsageError with the nearest name if one is no dataset."""
    for name in names:
        if name not in BUILDERS:
            near = difflib.get_close_matches(name, BUILDERS, n=1)
            raise UsageError(
                f"no dataset {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(BUILDERS)}")
            )


def pipeline_of(
    names: Sequence[str], sources: Mapping[str, str], *, gin_files: Sequence[str] = (), bindings: Sequence[str] = ()
) -> Pipeline:
    """The stages that build the named datasets.

    Args:
      names: keys of `BUILDERS`.
      sources: path by role; "" is the only required role of a single dataset.
      gin_files: read after our own.
      bindings: `X=Y`.

    Raises:
      UsageError: an unknown name, a source that is missing or that none of the datasets takes.
    """
    check_names(names)
    given = _named(names, sources)
    config = GinConfig.parse([CONFIG, *gin_files], bindings)
    stages = []
    for name in names:
        builder = BUILDERS[name]
        mine = {role: Source(given[role]) for role in (*builder.required, *builder.optional) if role in given}
        raw = Stage(f"raw-{name}", IMPORT_FILES, config.spec(IMPORT_FILES.spec), mine)
        stages += [raw, Stage(f"build-{name}", builder.type, _spec(config, builder), {"raw": raw})]
    config.check_used(pipeline=NAME, own=CONFIG)
    return Pipeline(NAME, tuple(stages))


def _named(names: Sequence[str], sources: Mapping[str, str]) -> dict[str, str]:
    given = dict(sources)
    if "" in given:
        roles = BUILDERS[names[0]].required if len(names) == 1 else ()
        if len(roles) != 1:
            raise UsageError(f"--source {given['']}: {', '.join(names)} needs {_options(names)}; say which it is")
        given[roles[0]] = given.pop("")
    for name in names:
        missing = [role for role in BUILDERS[name].required if role not in given]
        if missing:
            raise UsageError(f"uio2 build {name} needs {_options([name])}; --{missing[0]} is missing")
    taken = {role for name in names for role in (*BUILDERS[name].required, *BUILDERS[name].optional)}
    unknown = [role for role in given if role not in taken]
    if unknown:
        raise UsageError(f"uio2 build {' '.join(names)} takes no --{unknown[0]}; it takes {_options(names)}")
    return given


def _options(names: Sequence[str]) -> str:
    required = dict.fromkeys(role for name in names for role in BUILDERS[name].required)
    optional = dict.fromkeys(role for name in names for role in BUILDERS[name].optional if role not in required)
    return " ".join([*(f"--{role} PATH" for role in required), *(f"[--{role} PATH]" for role in optional)])


def _spec(config: GinConfig, builder: Builder) -> Any:
    """The configured spec, with the settings that make it this dataset where the configuration left the defaults."""
    spec: Any = config.spec(builder.type.spec)
    defaults = {field.name: field.default for field in dataclasses.fields(spec)}
    own = {key: value for key, value in builder.settings.items() if getattr(spec, key) == defaults[key]}
    return dataclasses.replace(spec, **own)
