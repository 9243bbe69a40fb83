"""`uio2 evaluate`: a checkpoint by a suite: predictions, figures, a page, and a gate that decides the exit status."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from uio2.cli.options import add_command, add_pipeline_options, print_json, store_of
from uio2.cli.run_commands import add_runner_option, execute, use_runner
from uio2.cli.task_commands import given_datasets

if TYPE_CHECKING:
    from flows.evaluate import Ready
    from uio2.pipeline.store import Store


def add(commands: Any) -> None:
    """Adds the command."""
    evaluate = add_command(
        commands,
        "evaluate",
        about="evaluate a checkpoint by a suite: predict, score, report, gate",
        details="""
            A suite is a file of configs/evaluate, or your own. The checkpoint is a model or artifact of the store, a
            folder of any layout, or a repository of the hub. Datasets come from the store (`uio2 build`) or from
            --dataset. What cannot work is said before anything starts; a gate that is not passed gives exit status 1.
            What was predicted is scored again without the model: docs/evaluation.md.""",
        examples="""
            uio2 evaluate --gin_file=configs/evaluate/refexp.gin --checkpoint digits@1
            uio2 evaluate --gin_file=configs/evaluate/vision_language.gin --checkpoint out --limit 200 \\
                --gin.MISSING_DATA="'leave_out'"
            uio2 evaluate --gin_file=configs/evaluate/refexp.gin --gin_file=configs/models/large.gin \\
                --checkpoint checkpoint_3000000 --tokenizer tokenizer.model --dataset refcoco=DIR --dry_run""",
        handler=run_evaluate,
    )
    evaluate.add_argument("--checkpoint", metavar="CHECKPOINT", help="what is evaluated (as CHECKPOINT)")
    evaluate.add_argument("--dataset", action="append", default=[], metavar="NAME=DIR", help="TFDS directory of a "
                          "dataset (default: the newest of the store)")  # fmt: skip
    evaluate.add_argument("--tokenizer", metavar="FILE", help="SentencePiece model (default: the checkpoint's own)")
    evaluate.add_argument("--limit", type=int, metavar="N", help="examples of each task (as LIMIT; 0 for all)")
    evaluate.add_argument("--processes", type=int, default=1, metavar="N", help="processes of this machine that "
                          "predict, each its share (default: 1)")  # fmt: skip
    evaluate.add_argument("--dry_run", action="store_true", help="check everything, print the resolved suite and what "
                          "would run, and stop")  # fmt: skip
    add_runner_option(evaluate)
    add_pipeline_options(evaluate, sources=())


def run_evaluate(args: argparse.Namespace) -> int:
    """`uio2 evaluate`."""
    from uio2.evaluate.gate import refuse
    from uio2.pipeline.launch.launcher import LocalProcesses

    store = store_of(args)
    ready = prepare(args, store)
    print(ready.text, file=sys.stderr, flush=True)
    if args.dry_run:
        return _show_plan(args, ready, store)
    use_runner(args)
    store.prepare()
    launchers = {"predict": LocalProcesses(args.processes)} if args.processes > 1 else {}
    done = execute(args, ready.pipeline, launchers=launchers)
    score, report = done["score"].artifact, done["report"].artifact
    page = str(report.path / report.stats["report"])
    gate = done["gate"].artifact if "gate" in done else None
    if args.json:
        print_json({
            "metrics": score.stats["metrics"],
            "report": page,
            "gate": gate.stats if gate else None,
            "stages": {name: {"digest": run.artifact.digest, "reused": run.reused} for name, run in done.items()},
        })  # fmt: skip
    else:
        _print_figures(score.path, page)
    if gate:
        refuse(gate.path)
    return 0


def prepare(args: argparse.Namespace, store: Store) -> Ready:
    """Resolves the suite of a command line and checks that it can work; UsageError lists all that is wrong."""
    from flows.evaluate import prepared

    given = {"CHECKPOINT": args.checkpoint, "TOKENIZER": args.tokenizer, "LIMIT": args.limit}
    bindings = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    return prepared(
        args.gin_file, [*args.gin_bindings, *bindings], store=store, given=given_datasets(args),
        processes=args.processes,
    )  # fmt: skip


def _show_plan(args: argparse.Namespace, ready: Ready, store: Store) -> int:
    from uio2.pipeline.plan import plan

    plans = plan(ready.pipeline, store=store.prepare())
    if args.json:
        stages = [{"stage": item.stage, "status": item.status, "reason": item.reason} for item in plans]
        print_json({"config": ready.text, "stages": stages})
        return 0
    for item in plans:
        print(f"{item.stage:<12}{item.status:<8}{item.reason}")
    return 0


def _print_figures(folder: Any, page: str) -> None:
    from uio2.evaluate.summary import HEADINGS, read_rows

    rows = [HEADINGS, *(row.cells() for row in read_rows(folder))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"report: {page}")
