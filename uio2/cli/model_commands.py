"""`models`, `promote`, `rollback`: which versions there are, which is champion, and changing that."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from uio2.cli.options import add_command, console_of, print_json, store_of
from uio2.pipeline.stage import UsageError
from uio2.pipeline.store import Store

MOST_VERSIONS = 5  # columns of figures: the last versions


def add(commands: Any) -> None:
    """Adds the commands."""
    models = add_command(
        commands,
        "models",
        about="list registered models: versions, aliases, when, figures",
        details="With a name, also what was decided about each version and why.",
        examples="uio2 models\nuio2 models digits\nuio2 models digits --json",
        handler=run_models,
    )
    models.add_argument("name", nargs="?", metavar="MODEL")
    promote = add_command(
        commands,
        "promote",
        about="decide whether an evaluated run becomes champion of a model",
        details="""
            RUN is an evaluated checkpoint, its score, or a version. It becomes a version if it holds what is asked of
            it alone (--min_value, --max_value, --min_margin), and champion if it also beats the champion: --improve
            must be better with significance (a paired test where both were scored on the same examples, otherwise
            intervals that do not touch) and nothing of --max_fall may fall further than that. What passes the first
            and not the second is the challenger. The first model has no champion to beat. Exit status 1 if it is not
            promoted. The decision and its evidence are an artifact, MODEL/promote.""",
        examples="""
            uio2 promote digits/score --improve vqa/exact_match
            uio2 promote digits/train@3f2a91c0 --model digits --improve refexp/acc@0.5 \\
                --max_fall vqa/exact_match=0.01 --min_margin refexp/acc@0.5=0.2
            uio2 promote digits@challenger --improve vqa/exact_match --json
            uio2 rollback digits""",
        handler=run_promote,
    )
    promote.add_argument("reference", metavar="RUN", help="PIPELINE/STAGE[@VERSION] or MODEL@N")
    promote.add_argument("--model", metavar="NAME", help="registered model (default: the pipeline of the run)")
    promote.add_argument("--improve", default="", metavar="METRIC", help="must be better than the champion's")
    promote.add_argument(
        "--significance", type=float, default=0.05, metavar="P", help="largest p of it (default: 0.05)"
    )
    for name, about in (
        ("max_fall", "it may be this much worse than the champion's, no more"),
        ("min_value", "it must be at least this"),
        ("max_value", "an error: it must be at most this"),
        ("min_margin", "its interval must be this far from the baseline"),
    ):
        promote.add_argument(f"--{name}", action="append", default=[], metavar="METRIC=X", help=about)
    rollback = add_command(
        commands,
        "rollback",
        about="make an earlier version of a model champion again",
        details="Nothing is removed; the time and the reason are kept, and MLflow's alias follows.",
        examples="""
            uio2 rollback digits
            uio2 rollback digits --to 2 --reason "answers in the wrong language\"""",
        handler=run_rollback,
    )
    rollback.add_argument("name", metavar="MODEL")
    rollback.add_argument("--to", type=int, metavar="N", help="version (default: the champion before this one)")
    rollback.add_argument("--reason", default="", metavar="TEXT", help="kept with the decision")


def run_models(args: argparse.Namespace) -> int:
    """`uio2 models`."""
    from uio2.pipeline import registry

    store = store_of(args)
    names = registry.models(store)
    if args.name and args.name not in names:
        raise UsageError(f"no model {args.name!r} in {store.root}; there are: {', '.join(names) or 'none'}")
    found = {name: _described(store, name) for name in ([args.name] if args.name else names)}
    if args.json:
        print_json(found)
        return 0
    for name, model in found.items():
        _print_model(name, model, events=bool(args.name))
    if not found:
        print(f"no models in {store.root}: one is registered when it passes `promote`")
    return 0


def run_promote(args: argparse.Namespace) -> int:
    """`uio2 promote`."""
    from flows.judging import judging
    from uio2.cli.run_commands import execute
    from uio2.evaluate.compare.runs import find_run
    from uio2.evaluate.specs import PromoteSpec
    from uio2.pipeline.aliases import CHAMPION

    store = store_of(args).prepare()
    model = args.model or find_run(store, args.reference).score.name.partition("/")[0]
    gates = {name: _numbers(name, getattr(args, name)) for name in ("max_fall", "min_value", "max_value", "min_margin")}
    spec = PromoteSpec(model, improve=args.improve, significance=args.significance, **gates)
    pipeline = judging(args.reference, spec, store=store)
    args.recipe_version, args.strict = None, False
    artifact = execute(args, pipeline, stages=pipeline.stages)["promote"].artifact
    version, aliases = _version_of(store, model, artifact.fingerprint)
    decision = {
        "model": model,
        "version": version,
        "promoted": artifact.stats["promoted"],
        "champion": version is not None and aliases.get(CHAMPION) == version,
        "reasons": artifact.stats["reasons"],
        "decision": artifact.uri,
    }
    if args.json:
        print_json(decision)
    else:
        name = f"{model}@{version}" if version else f"no version of {model}"
        titles = [alias for alias, number in aliases.items() if number == version]
        print(f"{name}: {' and '.join(titles) or 'no alias'}")
        print("".join(f"  {reason}\n" for reason in decision["reasons"]), end="")
        print(f"evidence: {artifact.uri}")
    return 0 if decision["champion"] else 1


def run_rollback(args: argparse.Namespace) -> int:
    """`uio2 rollback`."""
    from uio2.pipeline import registry
    from uio2.pipeline.tracking import open_tracker

    store = store_of(args).prepare()
    aliases = registry.rollback(store, args.name, to=args.to, reason=args.reason)
    open_tracker(store, pipeline=args.name, console=console_of(args)).close()
    event = aliases.events[-1]
    if args.json:
        print_json(dataclasses.asdict(event))
    else:
        before = f" instead of {args.name}@{event.before}" if event.before is not None else ""
        print(f"{args.name}@{event.number} is champion again{before}: {event.reason}")
    return 0


def _numbers(option: str, values: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for value in values:
        metric, _, number = value.rpartition("=")
        try:
            found[metric] = float(number)
        except ValueError:
            metric = ""
        if not metric:
            raise UsageError(f"--{option} {value}: expected METRIC=NUMBER, as vqa/exact_match=0.02")
    return found


def _version_of(store: Store, model: str, decision: str) -> tuple[int | None, dict[str, int]]:
    """The version that a decision is about, None if it was not accepted, and the aliases of the model."""
    from uio2.pipeline import registry

    aliases = registry.read_aliases(store, model)
    return next((e.number for e in aliases.events if e.decision == decision), None), aliases.names()


def _described(store: Store, name: str) -> dict[str, Any]:
    from uio2.pipeline import registry

    aliases = registry.read_aliases(store, name)
    rows = []
    for version in registry.versions(store, name):
        made = store.find(version.fingerprint, name=version.artifact)
        metrics = made.stats.get("metrics", {}) if made else {}
        row = {key: getattr(version, key) for key in ("number", "created", "artifact", "digest", "checkpoint")}
        rows.append({**row, "aliases": aliases.of(version.number), "there": made is not None, "metrics": metrics})
    return {"aliases": aliases.names(), "versions": rows, "events": [dataclasses.asdict(e) for e in aliases.events]}


def _print_model(name: str, model: dict[str, Any], *, events: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("version", "alias", "registered", "checkpoint"):
        table.add_column(heading, no_wrap=True)
    for version in model["versions"]:
        there = version["checkpoint"][:12] if version["there"] else "gone from the store"
        table.add_row(f"{name}@{version['number']}", ", ".join(version["aliases"]), _when(version["created"]), there)
    console.print(table)
    console.print(_figures(name, model["versions"][-MOST_VERSIONS:]))
    for event in model["events"] if events else ():
        took = "" if event["before"] is None else f" (champion was {name}@{event['before']})"
        console.print(
            f"{_when(event['time'])}  {event['kind']} {name}@{event['number']}{took}: "
            f"{event['reason'] or 'no condition was set'}",
            soft_wrap=True,
            markup=False,
        )


def _figures(name: str, versions: Sequence[dict[str, Any]]) -> Any:
    """Figures down, versions across: there are many of the first and their names are long."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("figure", no_wrap=True)
    for version in versions:
        table.add_column(f"{name}@{version['number']}", justify="right", no_wrap=True)
    for key in dict.fromkeys(key for version in versions for key in version["metrics"]):
        found = [version["metrics"].get(key) for version in versions]
        table.add_row(key, *("-" if row is None else f"{row['value']:.3f}" for row in found))
    return table


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
