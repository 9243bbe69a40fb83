"""`compare`: evaluated runs beside each other."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uio2.cli.options import add_command, print_json, store_of
from uio2.pipeline.stage import UsageError


def add(commands: Any) -> None:
    """Adds the command."""
    compare = add_command(
        commands,
        "compare",
        about="compare evaluated runs: settings, figures with significance, losses, examples won and lost",
        details="""
            Each RUN is a model version or an artifact (checkpoint, predictions, score, report). Differences are against
            the first, on the examples both answered, with a paired test. Writes an HTML page too.""",
        examples="""
            uio2 compare digits@1 digits@2
            uio2 compare digits/train@1 digits/train@3f2a91c0 --out compare.html
            uio2 compare digits@1 digits@2 --json""",
        handler=run_compare,
    )
    compare.add_argument("references", nargs="+", metavar="RUN", help="MODEL@N or PIPELINE/STAGE@VERSION")
    compare.add_argument("--out", metavar="FILE", help="the page (default: in the store, reports/)")


def run_compare(args: argparse.Namespace) -> int:
    """`uio2 compare`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from uio2.evaluate.compare.differences import lines, settings
    from uio2.evaluate.compare.page import as_json, page_of
    from uio2.evaluate.compare.runs import find_run
    from uio2.pipeline.atomic import write_text

    if len(args.references) < 2:
        raise UsageError(f"compare {args.references[0]}: give a second run to compare it with")
    store = store_of(args)
    runs = [find_run(store, reference) for reference in args.references]
    differing, figures = settings(runs), lines(runs)
    page = _place(args, store, [run.score.digest for run in runs])
    write_text(page, page_of(runs, settings=differing, lines=figures))
    if args.json:
        print_json(as_json(runs, settings=differing, lines=figures) | {"page": str(page)})
        return 0
    _print(runs, differing, figures)
    print(f"page: {page}")
    return 0


def _place(args: argparse.Namespace, store: Any, digests: Sequence[str]) -> Path:
    if args.out:
        page = Path(args.out)
        if not page.parent.is_dir():
            raise UsageError(f"--out {page}: the folder {page.parent} does not exist; make it first")
        return page
    name = hashlib.sha256("".join(digests).encode()).hexdigest()[:12]
    return store.prepare().folder("reports") / f"compare-{name}.html"


def _print(runs: Sequence[Any], differing: Sequence[Any], figures: Sequence[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("metric")
    for index, run in enumerate(runs):
        table.add_column(run.label, justify="right")
        if index:
            table.add_column("difference", justify="right")
            table.add_column("p", justify="right")
    for line in figures:
        cells = [line.key]
        for index, value in enumerate(line.values):
            cells.append(f"{value[0]:.3f} ({value[1]:.3f}..{value[2]:.3f})" if value else "-")
            if index:
                delta = line.deltas[index - 1]
                colour = {"better": "green", "worse": "red", "": ""}[line.verdict(index)]
                text = f"{delta.value:+.3f}" if delta else "-"
                cells += [f"[{colour}]{text}[/]" if colour else text, f"{delta.p:.4f}" if delta else "-"]
        table.add_row(*cells)
    console.print(table)
    console.print(f"\n{len(differing)} settings differ" + (":" if differing else ""))
    for setting in differing:
        console.print(f"  {setting.name}: {' -> '.join(setting.values)}", soft_wrap=True, markup=False)
