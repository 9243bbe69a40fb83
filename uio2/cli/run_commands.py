"""`run`: a whole pipeline as a Prefect flow. `predict, score, report`: one stage and what it needs."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uio2.cli.options import (
    add_command,
    add_pipeline_options,
    add_stage_options,
    console_of,
    pipeline_of,
    print_json,
    store_of,
)
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import Pipeline, Stage, UsageError

VERSION = re.compile(r"[A-Za-z0-9_.+-]{1,40}")
WORDS = {
    "predict": (
        "write the predictions of a model",
        "uio2 predict\nuio2 predict --gin.evaluate.PredictSpec.max_examples=10",
    ),
    "score": ("compute metrics from prediction files", "uio2 score\nuio2 score --json"),
    "report": (
        "make the HTML report",
        "uio2 report\nuio2 report --pipeline coco --images DIR --annotations DIR",
    ),
}


def add(commands: Any) -> None:
    """Adds the commands."""
    run = add_command(
        commands,
        "run",
        about="run a pipeline: what is published is reused, the rest runs",
        details="May be stopped at any time and run again: finished stages are kept, a stopped one resumes.",
        examples="""
            uio2 run digits
            uio2 run digits --gin.STEPS=20
            uio2 run coco --images train2017 --annotations annotations --vqa vqa --refer refer
            uio2 run my_project.my_pipeline --source text=corpus/""",
        handler=run_pipeline,
    )
    run.add_argument("name", nargs="?", default="digits", help="digits, coco or a module of yours (default: digits)")
    run.add_argument("--parallel", type=int, default=1, metavar="N", help="stages at once, where the DAG allows it")
    run.add_argument("--no-prefect", action="store_true", help="run the stages in order without a flow")
    run.add_argument("--quiet", action="store_true", help="no progress, only the result")
    add_pipeline_options(run)
    for word, (about, examples) in WORDS.items():
        parser = add_command(
            commands,
            word,
            about=f"{about}, with everything it needs",
            examples=examples,
            handler=functools.partial(run_word, word=word),
        )
        if word == "score":
            add_runner_option(parser)
        add_stage_options(parser)


def add_runner_option(parser: argparse.ArgumentParser) -> None:
    """The option that makes scoring a Beam job."""
    parser.add_argument("--runner", metavar="RUNNER", help="score as a Beam job there, for example FnApiRunner or "
                        "'DirectRunner --direct_num_workers=2' (default: in one process, or by size)")  # fmt: skip


def use_runner(args: argparse.Namespace) -> None:
    """Tells the stage where to score; where it is done is no part of the recipe."""
    if getattr(args, "runner", None):
        from beam_jobs.runner import VARIABLE, with_runner
        from uio2.evaluate.score import BEAM
        from uio2.evaluate.score import VARIABLE as SCORE

        os.environ[SCORE] = BEAM
        os.environ[VARIABLE] = with_runner(args.runner, os.environ.get(VARIABLE, ""))


def run_pipeline(args: argparse.Namespace) -> int:
    """`uio2 run`."""
    from uio2.cli.summary import print_summary, summary
    from uio2.pipeline.execution import account_cached
    from uio2.pipeline.plan import CACHED, plan
    from uio2.pipeline.tracking import unmirrored

    if args.parallel < 1:
        raise UsageError(f"--parallel {args.parallel}: expected 1 or more")
    store = store_of(args).prepare()
    pipeline = pipeline_of(args, args.name)
    plans = plan(pipeline, store=store)
    if all(item.status == CACHED for item in plans):
        console_of(args).line("uio2", f"every stage of {pipeline.name} is published: nothing to run")
        account_cached(store, pipeline, plans)
        if unmirrored(store):
            _tracker(args, store, pipeline).close()
    else:
        execute(args, pipeline, flow=not (args.no_prefect or os.environ.get("UIO2_PREFECT") == "off"))
    found = summary(store, pipeline.name)
    print_json(found) if args.json else print_summary(found, store)
    return 0


def run_word(args: argparse.Namespace, word: str) -> int:
    """`uio2 train`, `predict`, `score`, `report`."""
    use_runner(args)
    pipeline = pipeline_of(args)
    names = [args.stage] if args.stage else [s.name for s in pipeline.stages if word in (s.name, s.type.name)]
    if len(names) != 1:
        raise UsageError(f"pipeline {pipeline.name} has {names or 'no'} stage for {word!r}; name one with --stage")
    return run_stages(args, pipeline, names)


def run_stages(
    args: argparse.Namespace,
    pipeline: Pipeline,
    names: Sequence[str],
    *,
    then: Callable[[Artifact], Mapping[str, Any]] | None = None,
) -> int:
    """Runs the named stages with all they need, does `then` with what each made, and prints both."""
    from uio2.pipeline.plan import upstream

    store_of(args).prepare()
    done = execute(args, pipeline, stages=upstream(pipeline, names))
    results = [dataclasses.asdict(done[name].artifact) | {"reused": done[name].reused} for name in names]
    if then is not None:
        results = [{**result, **then(done[name].artifact)} for name, result in zip(names, results, strict=True)]
    if args.json:
        print_json(results)
        return 0
    for result in results:
        figures = {k: v for k, v in result["stats"].items() if isinstance(v, (int, float, str, bool))}
        place = result.get("out", result["uri"])
        print(f"{result['name']}@{result['version']}  digest {result['digest'][:12]}\n  {place}")
        print("".join(f"  {key}: {value}\n" for key, value in figures.items()), end="")
    return 0


def execute(
    args: argparse.Namespace,
    pipeline: Pipeline,
    *,
    stages: Sequence[Stage] | None = None,
    flow: bool = False,
    launchers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs the stages, under Prefect if asked; MLflow's records are written anyhow. Returns each one's `StageRun`."""
    from uio2.pipeline.execution import Execution
    from uio2.pipeline.runner import Runner
    from uio2.pipeline.stopping import stoppable

    store = store_of(args)
    if args.recipe_version:
        pipeline = _named(pipeline, args.recipe_version)
        stages = None if stages is None else [s for s in pipeline.stages if s.name in {stage.name for stage in stages}]
    tracker = _tracker(args, store, pipeline)
    runner = Runner(store, pipeline=pipeline.name, console=console_of(args), tracker=tracker, debug=args.debug,
                    launchers=launchers, strict=args.strict)  # fmt: skip
    with stoppable(runner):
        try:
            execution = Execution(pipeline, runner, stages=stages)
            if flow:
                from flows.run import run_flow

                run_flow(execution, parallel=args.parallel)
            else:
                execution.run()
        finally:
            tracker.close()
    return dict(execution.done)


def _named(pipeline: Pipeline, version: str) -> Pipeline:
    """The same stages under a version of this name."""
    if not VERSION.fullmatch(version):
        raise UsageError(f"--recipe_version {version!r}: expected letters, digits and _ . + -, at most 40 of them")
    made: dict[str, Stage] = {}
    for stage in pipeline.stages:
        inputs = {key: made[value.name] if isinstance(value, Stage) else value for key, value in stage.inputs.items()}
        made[stage.name] = dataclasses.replace(stage, version=version, inputs=inputs)
    return Pipeline(pipeline.name, tuple(made.values()))


def _tracker(args: argparse.Namespace, store: Any, pipeline: Pipeline) -> Any:
    from uio2.pipeline.tracking import open_tracker

    return open_tracker(store, pipeline=pipeline.name, console=console_of(args))
