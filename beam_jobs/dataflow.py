"""Builds whose workers are other machines: what they need to find, and what must not be asked of them.

Such workers share nothing with this machine, so the sources are at URLs, the results of the graph go below
`UIO2_BEAM_WORK` (`--work`) and are fetched from there, and the code travels as a wheel that is made here, unless an
image holds it. Which machines write a dataset changes nothing in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beam_jobs import work_files
from beam_jobs.job import Job
from beam_jobs.runner import DEFAULT, ELSEWHERE, VARIABLE, WORK, pipeline_options
from beam_jobs.shards import Shard
from uio2.pipeline.stage import StageError


def shared_work(job: Job, *, num_shards: int, limit: int | None) -> str:
    """The URL below which the graph leaves its results; "" where that is the stage's own scratch.

    It depends on the job alone, so a killed build finds the shards that are finished.
    """
    base = os.environ.get(WORK, "")
    if not base:
        return ""
    key = hashlib.sha256(repr((job, num_shards, limit)).encode()).hexdigest()[:16]
    return f"{work_files.check_writable(base)}/{job.name}-{key}"


@contextmanager
def results_in(work: Path, *, shared: str) -> Iterator[None]:
    """Clears what an earlier attempt left below `shared`, but for its shards; afterwards brings all of it to `work`.

    Raises:
      StageError: the job was made into a template, so that there is nothing to bring.
    """
    if not shared:
        yield
        return
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    work_files.clear(shared, keep="shards")
    yield
    if staged := pipeline_options().view_as(GoogleCloudOptions).template_location:
        raise StageError(
            f"the job is staged at {staged} and has not run; once it has, the same build with the same --work and "
            "without --template_location takes the shards that are there and finishes the dataset"
        )
    work_files.fetch(shared, work)


def fetched(shard: Shard, work: Path) -> Shard:
    """The shard where it was fetched to."""
    return dataclasses.replace(shard, path=str(work / "shards" / os.path.basename(shard.path)))


def options_here() -> Any:
    """Options for a graph over files of this machine: those of the environment, unless its runner is elsewhere."""
    options = pipeline_options()
    return pipeline_options(DEFAULT) if _runner(options) in ELSEWHERE else options


def options_for(job: Job, *, shared: str, packages: Path) -> Any:
    """Options for the graph that reads the sources and writes the shards.

    Args:
      job: what runs.
      shared: of `shared_work`.
      packages: an own folder, for the wheel.

    Raises:
      StageError: the workers could not reach a source or the results.
    """
    options = pipeline_options()
    if _runner(options) not in ELSEWHERE:
        return options
    if not shared:
        raise StageError(
            f"{_runner(options)}: its workers cannot write to this machine; give --work gs://BUCKET/FOLDER "
            f"(or {WORK}), where they leave the shards, or --out gs://BUCKET/DATASET, beside which they then do"
        )
    for path in sorted(set(_local_paths(dataclasses.asdict(job)))):  # type: ignore[call-overload]  # jobs are dataclasses
        raise StageError(
            f"{path}: lies on this machine, which the workers of {_runner(options)} cannot read; copy it to a bucket "
            "and give its gs:// address"
        )
    return pipeline_options([*shlex.split(os.environ.get(VARIABLE, "")), *_missing(options, job, shared, packages)])


def _runner(options: Any) -> str:
    from apache_beam.options.pipeline_options import StandardOptions

    return options.view_as(StandardOptions).runner.rpartition(".")[2]


def _missing(options: Any, job: Job, shared: str, packages: Path) -> Iterator[str]:
    """Flags that follow from the build, where they are not given."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions, WorkerOptions

    from beam_jobs.wheel import write_wheel

    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    if not cloud.temp_location:
        yield f"--temp_location={shared.rpartition('/')[0]}/beam-temp"
    if not cloud.job_name:
        name = re.sub(r"[^a-z0-9]+", "-", job.name.lower()).strip("-")
        yield f"--job_name=uio2-{name}-{shared[-8:]}"
    image = options.view_as(WorkerOptions).sdk_container_image
    if not image and not setup.extra_packages and not setup.setup_file:
        packages.mkdir(parents=True, exist_ok=True)
        yield f"--extra_package={write_wheel(packages)}"


def _local_paths(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value.startswith("/"):
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _local_paths(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _local_paths(item)
