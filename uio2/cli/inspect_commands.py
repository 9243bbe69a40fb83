"""`show`, `plan`, `lineage`, `gc`: what there is, what would run, where it comes from, what may go."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from uio2.cli.options import add_command, add_pipeline_options, pipeline_of, print_json, store_of
from uio2.pipeline.stage import UsageError


def add(commands: Any) -> None:
    """Adds the commands."""
    show = add_command(
        commands,
        "show",
        about="show the last run of a pipeline: metrics, stages, report",
        examples="uio2 show digits\nuio2 show digits --json",
        handler=run_show,
    )
    show.add_argument("name", nargs="?", default="digits")
    plan = add_command(
        commands,
        "plan",
        about="say what is cached, what would run and which field changed",
        examples="""
            uio2 plan digits
            uio2 plan digits --gin.STEPS=20
            uio2 plan coco --images train2017 --annotations annotations --json""",
        handler=run_plan,
    )
    plan.add_argument("name", nargs="?", default="digits")
    plan.add_argument("--config", action="store_true", help="print every resolved value of every stage instead")
    add_pipeline_options(plan)
    lineage = add_command(
        commands,
        "lineage",
        about="walk from a model or artifact back to raw files and verify every digest",
        details="Needs only the records in the store. Exit status 1 if a digest does not match or something is gone.",
        examples="""
            uio2 lineage digits@1
            uio2 lineage digits@champion --html lineage.html
            uio2 lineage digits/train@1 --json""",
        handler=run_lineage,
    )
    lineage.add_argument("reference", metavar="NAME[@VERSION]", help="a model, or an artifact PIPELINE/STAGE")
    lineage.add_argument("--html", metavar="FILE", help="write it as a page with a graph, too")
    gc = add_command(
        commands,
        "gc",
        about="list, and with --delete remove, what nothing refers to",
        details="""
            Referred to are registered models, the last run of each pipeline and the newest artifact of each name, with
            all they were made from.""",
        examples="uio2 gc\nuio2 gc --keep 3 --older_than 30\nuio2 gc --delete",
        handler=run_gc,
    )
    gc.add_argument("--delete", action="store_true", help="remove it (without: only list it)")
    gc.add_argument(
        "--keep", type=int, default=1, metavar="N", help="newest artifacts of each name to keep (default: 1)"
    )
    gc.add_argument("--older_than", type=float, default=0.0, metavar="DAYS", help="leave younger ones alone")


def run_show(args: argparse.Namespace) -> int:
    """`uio2 show`."""
    from uio2.cli.summary import print_summary, summary

    store = store_of(args)
    found = summary(store, args.name)
    print_json(found) if args.json else print_summary(found, store)
    return 0


def run_plan(args: argparse.Namespace) -> int:
    """`uio2 plan`."""
    from uio2.pipeline.gin_config import operative_text
    from uio2.pipeline.plan import plan

    pipeline = pipeline_of(args, args.name)
    if args.config:
        print(operative_text(pipeline), end="")
        return 0
    items = plan(pipeline, store=store_of(args).prepare())
    if args.json:
        print_json({"pipeline": pipeline.name, "stages": [dataclasses.asdict(item) for item in items]})
        return 0
    width = max(len(item.stage) for item in items)
    for item in items:
        print(f"{item.stage:<{width}}  {item.status:<6}  {item.reason}")
        for change in item.changes:
            print(f"{'':<{width}}          {change}")
    return 0


def run_lineage(args: argparse.Namespace) -> int:
    """`uio2 lineage`."""
    from uio2.pipeline.atomic import write_text
    from uio2.pipeline.lineage import OK, walk

    page = Path(args.html) if args.html else None
    if page and not page.parent.is_dir():
        raise UsageError(f"--html {page}: the folder {page.parent} does not exist; make it first")
    nodes = []
    for node in walk(store_of(args), args.reference):
        nodes.append(node)
        if not args.json:  # as it goes: reading a large dataset again takes a while
            label = f"{node.role}: {node.name}" if node.role else node.name
            version = f"@{node.version}" if node.version else ""
            place = node.uri if node.kind == "source" else ""
            parts = [
                f"{'  ' * node.depth}{label}{version}",
                node.kind,
                node.digest[:12],
                node.status,
                node.detail,
                place,
            ]
            print("  ".join(filter(None, parts)), flush=True)
    wrong = [node for node in nodes if node.status != OK]
    if page:
        from uio2.pipeline.lineage_page import page_of

        write_text(page, page_of(store_of(args), args.reference, nodes))
    if args.json:
        values = [dataclasses.asdict(node) for node in nodes]
        print_json({"reference": args.reference, "ok": not wrong, "nodes": values})
    elif wrong:
        print(f"{len(wrong)} of {len(nodes)} do not hold what was recorded")
    return 1 if wrong else 0


def run_gc(args: argparse.Namespace) -> int:
    """`uio2 gc`."""
    from uio2.pipeline.garbage import find_garbage, remove

    if args.keep < 0:
        raise UsageError(f"--keep {args.keep}: expected 0 or more")
    store = store_of(args)
    found = find_garbage(store, keep=args.keep, older_than_s=args.older_than * 86400)
    gone = remove(store, found) if args.delete else []
    if args.json:
        print_json({"found": [dataclasses.asdict(item) for item in found], "removed": [item.path for item in gone]})
        return 0
    for item in found:
        days = item.age_s / 86400
        print(f"{item.bytes / 1e6:10.1f} MB  {days:6.1f} days  {item.name}@{item.fingerprint[:12]}")
    total = sum(item.bytes for item in found) / 1e6
    if args.delete:
        held = len(found) - len(gone)
        print(f"removed {len(gone)} ({total:.1f} MB)" + (f"; {held} are in use" if held else ""))
    else:
        print(f"{len(found)} unreferenced, {total:.1f} MB" + ("; remove them with --delete" if found else ""))
    return 0
