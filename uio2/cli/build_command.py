"""`build`: datasets, of a pipeline or of the user's own files; `--dry_run` says what one would hold."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_jobs.builders import BUILDERS, ROLES
from beam_jobs.runner import WORK
from beam_jobs.work_files import check_writable
from uio2.cli.options import SOURCES, add_command, add_stage_options, pipeline_of, print_json, sources_of, store_of
from uio2.cli.run_commands import run_stages
from uio2.pipeline.places import AnyPlace, is_remote, place
from uio2.pipeline.stage import Pipeline, Source, Stage, UsageError

KNOWN = tuple(dict.fromkeys((*SOURCES, *ROLES)))
# What the pipelines themselves build: these names mean the pipeline's stage where its sources are given.
OF_PIPELINES = ("coco", "refcoco", "audio")
# Options that are fields of the specs, where a dataset has them.
FIELDS = ("limit", "num_shards", "max_side", "duplicates", "dead_letter_bytes")


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
            uio2 build image-depth --images rgb --depth depth --num_shards 16 --out data/depth
            uio2 build coco --images train2017 --annotations annotations --dry_run
            uio2 build speech --audio LibriSpeech --runner 'FnApiRunner --direct_running_mode=multi_processing'""",
        handler=run_build,
    )
    build.add_argument("names", nargs="*", metavar="DATASET", help="default: all of the pipeline")
    build.add_argument("--limit", type=int, metavar="N", help="records of each split, by hashed key (default: all)")
    build.add_argument("--num_shards", type=int, metavar="N", help="files of each split")
    build.add_argument("--max_side", type=int, metavar="N", help="scale larger images down to it, in pixels")
    build.add_argument("--duplicates", choices=("drop", "error"), help="keys that come twice (default: drop, counted)")
    build.add_argument(
        "--dead_letter_bytes", action="store_true", default=None, help="keep the bytes of dropped files too"
    )
    build.add_argument(
        "--out", metavar="DIR", help="put the finished dataset there too, also gs:// and s3://; nothing is overwritten"
    )
    build.add_argument(
        "--runner", default="", metavar="NAME", help="Beam's, and its flags, quoted (default: $UIO2_BEAM_OPTIONS)"
    )
    build.add_argument("--dry_run", action="store_true", help="read the sources and say what would be built")
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
    if (args.dry_run or args.out) and not set(names) <= set(built):
        raise UsageError(f"--{'dry_run' if args.dry_run else 'out'}: stage {names[0]} makes no dataset; leave it out")
    from beam_jobs.request import running_on

    with running_on(args.runner, out=args.out or ""):
        return _built(args, _changed(args, pipeline, names), names)


def _built(args: argparse.Namespace, pipeline: Pipeline, names: Sequence[str]) -> int:
    if args.dry_run:
        return _dry_run(args, pipeline, names)
    if args.out is None:
        return run_stages(args, pipeline, names)
    from beam_jobs.export import check_free, export

    out = args.out
    if len(names) != 1:
        raise UsageError(f"--out {out}: takes one dataset, and {len(names)} are to be built: {', '.join(names)}")
    check_free(out)
    return run_stages(args, pipeline, names, then=lambda artifact: {"out": export(artifact, out)})


def _pipeline(args: argparse.Namespace) -> Pipeline:
    sources = sources_of(args, known=KNOWN, unnamed=True)
    whole = {"images", "annotations"} <= sources.keys() <= {"images", "annotations", "vqa", "refer"}
    own = set(args.names) <= set(OF_PIPELINES) and (whole or not sources)
    if args.pipeline or args.stage or not args.names or own:
        return pipeline_of(args, known_sources=KNOWN)
    from flows import build

    return build.pipeline_of(args.names, sources, gin_files=args.gin_file, bindings=args.gin_bindings)


def _changed(args: argparse.Namespace, pipeline: Pipeline, names: Sequence[str]) -> Pipeline:
    """The stages that are needed, with the options that are fields in the specs of the named ones."""
    from uio2.pipeline.plan import upstream

    changes = {key: value for key in FIELDS if (value := getattr(args, key)) is not None}
    if not changes:
        return pipeline
    # Datasets are made of raw files, so no stage among these reads one whose spec changes.
    stages = [_with(stage, changes) if stage.name in names else stage for stage in upstream(pipeline, names)]
    return Pipeline(pipeline.name, tuple(stages))


def _with(stage: Stage, changes: dict[str, Any]) -> Stage:
    has = {field.name for field in dataclasses.fields(stage.spec)}
    if lacking := [key for key in changes if key not in has]:
        raise UsageError(f"--{lacking[0]}: {stage.name.removeprefix('build-')} has no such setting; leave it out")
    return dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, **changes))


def _dry_run(args: argparse.Namespace, pipeline: Pipeline, names: Sequence[str]) -> int:
    """Says what each dataset would hold, and whether the store has it; status 1 if a build would fail."""
    from beam_jobs.preview import preview
    from beam_jobs.request import job_of
    from uio2.pipeline.plan import plan, upstream

    store = store_of(args).prepare()
    needed = Pipeline(pipeline.name, tuple(upstream(pipeline, names)))
    plans = {item.stage: item for item in plan(needed, store=store)}
    found = []
    for stage in needed.stages:
        if stage.name in names:
            job = job_of(stage, _roots(stage, plans[stage.inputs["raw"].name].artifact))  # type: ignore[union-attr]
            seen = dataclasses.asdict(preview(job, stage.spec))
            found.append({"stage": stage.name, "store": plans[stage.name].reason, **seen})
    if args.json:
        print_json(found)
    else:
        for row in found:
            print("".join(f"{line}\n" for line in _told(row)), end="")
    return 1 if any(row["problem"] for row in found) else 0


def _roots(stage: Stage, raw: Any) -> dict[str, AnyPlace]:
    """Where a build's files lie: as its raw artifact says if that is published, else where the user points."""
    from beam_jobs import sources

    if raw is not None:
        return sources.roots(raw)
    before = stage.inputs["raw"]
    given = before.inputs if isinstance(before, Stage) else {}
    paths = {role: s.path for role, s in given.items() if isinstance(s, Source)}
    found = {
        role: sources.opened(place(path if is_remote(path) else str(Path(path).expanduser().absolute())))
        for role, path in paths.items()
    }
    if not found:
        raise UsageError(f"--dry_run: {stage.name} is made of generated files that are not there yet; build it once")
    return found


def _told(row: dict[str, Any]) -> list[str]:
    lines = [f"{row['dataset']}: would be built, nothing was written  (store: {row['store']})"]
    for kind, count in row["records_in"].items():
        reasons = ", ".join(f"{reason} {n}" for reason, n in row["dropped"].get(kind, {}).items())
        over = f", {n} over the limit" if (n := row["over_limit"].get(kind)) else ""
        lines.append(f"  {kind}: {count} in{over}" + (f", dropped: {reasons}" if reasons else ""))
    splits = ", ".join(f"{split} {n}" for split, n in row["splits"].items()) or "none"
    lines.append(f"  splits: {splits}; {row['shards']} shards each, about {row['estimated_bytes'] / 1e6:,.1f} MB")
    bad = ", ".join(f"{reason} {n}" for reason, n in row["sample_dropped"].items()) or "none of them would be dropped"
    lines.append(f"  sample: {row['sampled']} records encoded; {bad}")
    return [*lines, f"  would fail: {row['problem']}"] if row["problem"] else lines
