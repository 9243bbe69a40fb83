"""One dataset asked for from Python: the same stages as `uio2 build NAME`, through the same runner.

    from beam_jobs import coco
    from beam_jobs.request import BuildOptions

    artifact = coco.build(BuildOptions({"images": "train2017", "annotations": "annotations"}, out="data/coco"))

What is published already for these files and this recipe is reused, a killed build goes on from its finished shards.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from beam_jobs.builders import BUILDERS, Builder
from beam_jobs.job import Job
from beam_jobs.runner import VARIABLE, WORK, runs_elsewhere, with_runner
from beam_jobs.specs import IMPORT_FILES, ImportFilesSpec
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace, is_remote
from uio2.pipeline.stage import Pipeline, Source, Stage, StageType, UsageError

NAME = "datasets"


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What a build is made of and where it goes.

    Attributes:
      sources: a folder or file by role, as the dataset's entry of `BUILDERS` lists them.
      spec: the recipe; None takes the dataset's defaults.
      store: the folder that keeps everything; "" is `UIO2_HOME`, else `./.uio2`.
      out: where the finished dataset is put besides, a folder or gs:// or s3://; None puts it nowhere else.
      runner: a Beam runner, with flags of Beam's behind it if need be; "" leaves `UIO2_BEAM_OPTIONS` as it is.
    """

    sources: Mapping[str, str | os.PathLike[str]]
    spec: Any = None
    store: str = ""
    out: str | os.PathLike[str] | None = None
    runner: str = ""


def make(type: StageType, options: BuildOptions) -> Artifact:
    """Builds the dataset of a stage type, or finds it published.

    Raises:
      StageError: the build failed; a UsageError where what was asked for cannot be meant.
    """
    from beam_jobs.export import check_free, export
    from uio2.pipeline.execution import Execution
    from uio2.pipeline.runner import Runner
    from uio2.pipeline.store import Store

    spec = type.spec() if options.spec is None else options.spec
    if not isinstance(spec, type.spec):
        raise UsageError(f"spec is a {spec.__class__.__name__}; {type.name} takes a {type.spec.__name__}")
    name = name_of(type, spec)
    given = checked_sources([name], {role: os.fspath(path) for role, path in options.sources.items()})
    if options.out is not None:
        check_free(options.out)
    stages = stages_of(name, given, spec=spec)
    with running_on(options.runner, out=os.fspath(options.out or "")):
        runner = Runner(Store(options.store or None), pipeline=NAME)
        artifact = Execution(Pipeline(NAME, stages), runner).run()[stages[-1].name].artifact
    if options.out is not None:
        export(artifact, options.out)
    return artifact


@contextmanager
def running_on(runner: str, *, out: str = "") -> Iterator[None]:
    """Has builds, which run in child processes, use a Beam runner; "" changes nothing.

    Workers elsewhere that are not told where to leave their shards do so beside `out`, if that is on a store.
    """
    before = {name: os.environ.get(name) for name in (VARIABLE, WORK)}
    if runner:
        os.environ[VARIABLE] = with_runner(runner, before[VARIABLE] or "")
    if is_remote(out) and not before[WORK] and runs_elsewhere(os.environ.get(VARIABLE, "")):
        os.environ[WORK] = f"{out.rstrip('/')}-work"
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def name_of(type: StageType, spec: Any) -> str:
    """The name in `BUILDERS` of what a recipe makes."""
    fitting = [name for name, builder in BUILDERS.items() if builder.type == type]
    exact = [n for n in fitting if all(getattr(spec, key) == value for key, value in BUILDERS[n].settings.items())]
    return (exact or fitting)[0]


def stages_of(
    name: str, sources: Mapping[str, str], *, spec: Any, imported: ImportFilesSpec | None = None
) -> tuple[Stage, Stage]:
    """`raw-NAME` and `build-NAME` of sources that `checked_sources` passed."""
    builder = BUILDERS[name]
    mine = {role: Source(sources[role]) for role in (*builder.required, *builder.optional) if role in sources}
    raw = Stage(f"raw-{name}", IMPORT_FILES, imported or ImportFilesSpec(), mine)
    return raw, Stage(f"build-{name}", builder.type, spec, {"raw": raw})


def job_of(stage: Stage, roots: Mapping[str, AnyPlace]) -> Job:
    """The job that a build stage runs, on the files of `roots`."""
    return importlib.import_module(stage.type.run.partition(":")[0]).job_of(stage.spec, roots)


def check_names(names: Sequence[str]) -> None:
    """UsageError with the nearest name if one is no dataset."""
    for name in names:
        if name not in BUILDERS:
            near = difflib.get_close_matches(name, BUILDERS, n=1)
            raise UsageError(
                f"no dataset {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(BUILDERS)}")
            )


def checked_sources(names: Sequence[str], sources: Mapping[str, str]) -> dict[str, str]:
    """Sources by role; the one under "" is the only required role of a single dataset.

    Raises:
      UsageError: a source is missing, or none of the datasets takes it.
    """
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
    unknown = [role for role in given if not any(role in _roles(BUILDERS[name]) for name in names)]
    if unknown:
        raise UsageError(f"uio2 build {' '.join(names)} takes no --{unknown[0]}; it takes {_options(names)}")
    return given


def _roles(builder: Builder) -> tuple[str, ...]:
    return (*builder.required, *builder.optional)


def _options(names: Sequence[str]) -> str:
    required = dict.fromkeys(role for name in names for role in BUILDERS[name].required)
    optional = dict.fromkeys(role for name in names for role in BUILDERS[name].optional if role not in required)
    return " ".join([*(f"--{role} PATH" for role in required), *(f"[--{role} PATH]" for role in optional)])
