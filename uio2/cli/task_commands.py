"""`uio2 tasks`: which tasks there are, what data each needs; `uio2 tasks check`: 20 examples through all stages."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from uio2.cli.options import add_command, print_json, store_of
from uio2.pipeline.stage import UsageError

COLUMNS = ("task", "input", "output", "prompts", "scored by", "dataset", "built")
MIXTURE_COLUMNS = ("mixture", "members", "built")


def add(commands: Any) -> None:
    """Adds the command."""
    tasks = add_command(
        commands,
        "tasks",
        about="list the tasks, the mixtures and the data each needs, or run examples of one through all stages",
        details="""
            `built` names the artifact in the store that a task would read, or the command that makes it. A mixture's
            name stands for its tasks wherever rates name tasks.
            `check` reports shapes, token counts, truncations and dropped examples. Exit status 1 if a task has no
            usable example.""",
        examples="""
            uio2 tasks
            uio2 tasks check vqa_coco_2017
            uio2 tasks check refcoco_unc --dataset refcoco=data/ref_coco/1.0.0 --tokenizer tokenizer.model
            uio2 tasks check audio_caption --gin.tasks.RegisterSpec.num_audio_segments=2 --json""",
        handler=run_tasks,
    )
    tasks.add_argument("action", nargs="?", choices=["list", "check"], default="list")
    tasks.add_argument(
        "name", nargs="*", metavar="NAME", help="tasks or mixtures to check; `all` checks every task that is built"
    )
    add_data_options(tasks)
    tasks.add_argument("--split", default="validation", help="checked split; train where there is no such one")
    tasks.add_argument("--num_examples", type=int, default=20, metavar="N", help="examples of each task (default 20)")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Where a task's data comes from, and how it is shaped."""
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", action="append", default=[], metavar="NAME=DIR", help="TFDS directory of an input")
    data.add_argument("--tokenizer", metavar="FILE", help="SentencePiece model (default: the store's newest, else one "
                      "is trained on the data)")  # fmt: skip
    gin = parser.add_argument_group("configuration")
    gin.add_argument("--gin_file", action="append", default=[], metavar="FILE")
    gin.add_argument("--gin.NAME=VALUE", action="store_true", dest="_gin", help="bind one value; may be repeated")


def run_tasks(args: argparse.Namespace) -> int:
    """`uio2 tasks`."""
    if args.action == "check":
        return _check(args)
    if args.name:
        raise UsageError(f"tasks list takes no names, got {args.name[0]!r}; `uio2 tasks check {args.name[0]}` runs it")
    from uio2.tasks.task_list import mixture_rows, rows

    found = rows(store_of(args), given=given_datasets(args))
    mixtures = mixture_rows(found)
    if args.json:
        print_json({"tasks": found, "mixtures": mixtures})
        return 0
    _print_table(found, columns=COLUMNS)
    print()
    _print_table(mixtures, columns=MIXTURE_COLUMNS)
    print(f"{len(found)} tasks, {sum(row['ready'] for row in found)} of them with data in the store", file=sys.stderr)
    return 0


def _print_table(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def given_datasets(args: argparse.Namespace) -> dict[str, str]:
    """The `--dataset NAME=DIR` options."""
    found = {}
    for item in args.dataset:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--dataset {item}: expected NAME=DIR")
        found[key] = value
    return found


def _check(args: argparse.Namespace) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its notices would bury the report
    from uio2.tasks.families import TaskError, all_tasks
    from uio2.tasks.mixtures import MIXTURES, shares
    from uio2.tasks.task_check import TaskData, check_task
    from uio2.tasks.task_list import dataset_of

    store, given = store_of(args), given_datasets(args)
    names = list(args.name)
    if names == ["all"]:
        names = [name for name, task in all_tasks().items() if dataset_of(task, store=store, given=given)]
    names = [task for name in names for task in (shares(name) if name in MIXTURES else [name])]
    if not names:
        raise UsageError("tasks check needs the NAME of a task, or `all`; `uio2 tasks` lists them")
    data = TaskData(store, datasets=given, tokenizer=args.tokenizer, gin_files=args.gin_file,
                    bindings=args.gin_bindings)  # fmt: skip
    reports = []
    for name in names:
        try:
            report = check_task(name, data=data, split=args.split, count=args.num_examples)
        except TaskError as error:
            raise UsageError(str(error)) from error
        reports.append(report)
        if not args.json:
            print(report.text(), flush=True)
    if args.json:
        print_json([report.to_json() for report in reports])
    return 0 if all(report.usable for report in reports) else 1
