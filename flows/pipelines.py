"""The pipelines by name, without importing them.

A name that holds a dot is a module of the user's own with the same two things as `flows.digits`: `ENTRY` and
`build(config, sources) -> Pipeline`; it runs as `uio2 run my_project.my_pipeline`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping, Sequence

from uio2.pipeline.stage import Pipeline, Source, UsageError


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the command line must know of a pipeline.

    Attributes:
      module: holds `build`.
      config: the gin file it is read with; the user's files and bindings come after it.
      about: one line for `--help`.
      required, optional: source options, each a folder of the user's.
    """

    module: str
    config: str = ""
    about: str = ""
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


PIPELINES = {
    "digits": Entry(
        module="flows.digits",
        config="configs/pipelines/digits.gin",
        about="the embedded default: handwritten digits in COCO layout, trained from scratch in minutes",
    ),
    "coco": Entry(
        module="flows.coco",
        config="configs/pipelines/coco.gin",
        about="a COCO folder of yours",
        required=("images", "annotations"),
        optional=("vqa", "refer"),
    ),
}


def entry(name: str) -> Entry:
    """The entry of a pipeline; UsageError with the nearest name if there is none."""
    if name in PIPELINES:
        return PIPELINES[name]
    if "." in name:
        try:
            return importlib.import_module(name).ENTRY
        except (ImportError, AttributeError) as error:
            raise UsageError(f"pipeline module {name!r}: {error}; expected a module with ENTRY and build()") from error
    near = difflib.get_close_matches(name, PIPELINES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(PIPELINES)}"
    raise UsageError(f"no pipeline {name!r}; {hint}")


def build(
    name: str, *, gin_files: Sequence[str] = (), bindings: Sequence[str] = (), sources: Mapping[str, str] | None = None
) -> Pipeline:
    """The pipeline, its specs resolved from its own gin file, then the user's files, then the bindings."""
    from uio2.pipeline.gin_config import GinConfig

    what = entry(name)
    given = dict(sources or {})
    missing = [key for key in what.required if key not in given]
    if missing:
        raise UsageError(f"pipeline {name} needs --{missing[0]} DIR")
    unknown = [key for key in given if key not in (*what.required, *what.optional)]
    if unknown:
        raise UsageError(f"pipeline {name} takes no --{unknown[0]}; it takes: {_options(what)}")
    config = GinConfig.parse([*filter(None, [what.config]), *gin_files], bindings)
    module = importlib.import_module(what.module)
    pipeline = module.build(config, {key: Source(path) for key, path in given.items()})
    config.check_used(pipeline=pipeline.name, own=what.config)
    return pipeline


def _options(what: Entry) -> str:
    return ", ".join(f"--{key}" for key in (*what.required, *what.optional)) or "no sources"
