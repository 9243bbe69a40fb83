"""Any datasets of the user's by name, each `raw-NAME -> build-NAME`, without a pipeline that goes on to a model.

Reproduces: nothing; it makes what tasks read (`uio2 tasks` says which).
Cost: about 300 images, or some thousand texts, a second and core. Score: none.
Run: uio2 build alpaca --source alpaca.json
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.builders import BUILDERS, Builder
from beam_jobs.request import NAME, check_names, checked_sources, stages_of
from beam_jobs.specs import IMPORT_FILES
from uio2.pipeline.gin_config import GinConfig
from uio2.pipeline.stage import Pipeline, Stage

CONFIG = "configs/pipelines/datasets.gin"


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
    given = checked_sources(names, sources)
    config = GinConfig.parse([CONFIG, *gin_files], bindings)
    stages: list[Stage] = []
    for name in names:
        imported: Any = config.spec(IMPORT_FILES.spec)
        stages += stages_of(name, given, spec=_spec(config, BUILDERS[name]), imported=imported)
    config.check_used(pipeline=NAME, own=CONFIG)
    return Pipeline(NAME, tuple(stages))


def _spec(config: GinConfig, builder: Builder) -> Any:
    """The configured spec, with the settings that make it this dataset where the configuration left the defaults."""
    spec: Any = config.spec(builder.type.spec)
    defaults = {field.name: field.default for field in dataclasses.fields(spec)}
    own = {key: value for key, value in builder.settings.items() if getattr(spec, key) == defaults[key]}
    return dataclasses.replace(spec, **own)
