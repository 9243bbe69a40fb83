"""`build`: datasets, of a pipeline or of the user's own files."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from beam_jobs.builders import BUILDERS, ROLES
from beam_jobs.runner import WORK
from beam_jobs.work_files import check_writable
from uio2.cli.options import SOURCES, add_command, add_stage_options, pipeline_of, sources_of
from uio2.cli.run_commands import run_stages
from uio2.pipeline.stage import Pipeline, UsageError

KNOWN = tuple(dict.fromkeys((*SOURCES, *ROLES)))
# What the pipelines themselves build: these names mean the pipeline's stage where its sources are given.
OF_PIPELINES = ("coco", "refcoco", "audio")


def add(commands: Any) -> None:
    """Adds the command."""
    build = add_command(
        commands,
        "build",
        about="build datasets",
        details=f"""
            Without source files: those of the embedded digits. With them, any of
            {", ".join(list(BUILDERS)[:9])},
            {", ".join(list(BUILDERS)[9:])}.
            Every dropped record is kept in the dataset's dead_letters/ with its reason, and the counts must add up.""",
        examples="""
            uio2 build
            uio2 build coco --images train2017 --annotations annotations --limit 1000
            uio2 build refcoco --pipeline digits
            uio2 build alpaca --source alpaca.json
            uio2 build audio-tags --audio ESC-50-master
            uio2 build dolly --source hf://datasets/databricks/databricks-dolly-15k
            uio2 build coco --images gs://b/train2017.zip --annotations gs://b/annotations --work gs://b/work
            uio2 build image-depth --images rgb --depth depth --num_shards 16""",
        handler=run_build,
    )
    build.add_argument("names", nargs="*", metavar="DATASET", help="default: all of the pipeline")
    build.add_argument("--limit", type=int, metavar="N", help="records of each split, by hashed key (default: all)")
    build.add_argument("--num_shards", type=int, metavar="N", help="files of each split")
    build.add_argument("--work", metavar="URL", help="gs:// or s3:// folder for what workers elsewhere write")
    add_stage_options(build, sources=KNOWN)


def run_build(args: argparse.Namespace) -> int:
    """`uio2 build`."""
    if args.work:
        os.environ[WORK] = check_writable(args.work)
    pipeline = _pipeline(args)
    built = [stage.name for stage in pipeline.stages if stage.type.kind == "dataset"]
    names = [args.stage] if args.stage else [f"build-{name}" for name in args.names] or built
    unknown = [name for name in names if name not in built and name != args.stage]
    if unknown:
        known = ", ".join(name.removeprefix("build-") for name in built) or "no dataset"
        raise UsageError(
            f"pipeline {pipeline.name} builds no {unknown[0].removeprefix('build-')!r}; it builds: {known}"
        )
    return run_stages(args, _resized(args, pipeline, names), names)


def _pipeline(args: argparse.Namespace) -> Pipeline:
    sources = sources_of(args, known=KNOWN, unnamed=True)
    whole = {"images", "annotations"} <= sources.keys() <= {"images", "annotations", "vqa", "refer"}
    own = set(args.names) <= set(OF_PIPELINES) and (whole or not sources)
    if args.pipeline or args.stage or not args.names or own:
        return pipeline_of(args, known_sources=KNOWN)
    from flows import build

    return build.pipeline_of(args.names, sources, gin_files=args.gin_file, bindings=args.gin_bindings)


def _resized(args: argparse.Namespace, pipeline: Pipeline, names: Sequence[str]) -> Pipeline:
    """The stages that are needed, with `--limit` and `--num_shards` in the specs of the named ones."""
    from uio2.pipeline.plan import upstream

    changes = {key: value for key in ("limit", "num_shards") if (value := getattr(args, key)) is not None}
    if not changes:
        return pipeline
    stages = upstream(pipeline, names)
    # Datasets are made of raw files, so no stage among these reads one whose spec changes.
    changed = [
        dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, **changes)) if stage.name in names else stage
        for stage in stages
    ]
    return Pipeline(pipeline.name, tuple(changed))
