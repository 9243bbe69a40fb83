"""Options that several commands share, and what they amount to: a store, a console, a pipeline."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from flows.pipelines import PIPELINES, build
from uio2.pipeline.console import Console
from uio2.pipeline.stage import Pipeline, UsageError
from uio2.pipeline.store import Store

Handler = Callable[[argparse.Namespace], int]
SOURCES = tuple(dict.fromkeys(key for entry in PIPELINES.values() for key in (*entry.required, *entry.optional)))


def add_command(
    commands: Any, name: str, *, about: str, details: str = "", examples: str, handler: Handler
) -> argparse.ArgumentParser:
    """A subcommand with the options all have, and examples at the end of its help."""
    parser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + "." + (f"\n\n{textwrap.dedent(details).strip()}" if details else ""),
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--store", metavar="DIR", help="where everything is kept (default: $UIO2_HOME, else ./.uio2)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    parser.add_argument("--debug", action="store_true", help="print tracebacks")
    parser.set_defaults(handler=handler)
    return parser


class _Once(argparse.Action):
    """Refuses an option given twice, where the second would silently take the place of the first."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if (given := getattr(namespace, self.dest)) is not None:
            parser.error(f"{option_string} is given twice, {given} and {values}; expected one place")
        setattr(namespace, self.dest, values)


def add_pipeline_options(parser: argparse.ArgumentParser, *, sources: Sequence[str] = SOURCES) -> None:
    """gin options and the folders a pipeline may read."""
    gin = parser.add_argument_group("configuration")
    gin.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="read after the pipeline's own")
    gin.add_argument("--gin.NAME=VALUE", action="store_true", dest="_gin", help="bind one value; may be repeated")
    gin.add_argument("--recipe_version", metavar="NAME", help="of what is made anew, as in STAGE@NAME (default: 1)")
    gin.add_argument("--strict", action="store_true", help="refuse another recipe under a version that has one")
    folders = parser.add_argument_group("source folders")
    for key in sources:
        folders.add_argument(f"--{key}", metavar="DIR", action=_Once)
    folders.add_argument("--source", action="append", default=[], metavar="NAME=DIR", help="of a pipeline of your own")


def add_stage_options(parser: argparse.ArgumentParser, *, sources: Sequence[str] = SOURCES) -> None:
    """Options of the commands that run part of a pipeline."""
    parser.add_argument("--pipeline", metavar="NAME", help="default: coco if source folders are given, else digits")
    parser.add_argument("--stage", metavar="NAME", help="another stage of the pipeline than this command's own")
    add_pipeline_options(parser, sources=sources)


def store_of(args: argparse.Namespace) -> Store:
    """The store of a command line; nothing is touched yet."""
    return Store(args.store)


def console_of(args: argparse.Namespace) -> Console:
    """Where running stages are reported: stderr."""
    return Console(quiet=getattr(args, "quiet", False))


def pipeline_of(
    args: argparse.Namespace, name: str | None = None, *, known_sources: Sequence[str] = SOURCES
) -> Pipeline:
    """The pipeline a command line means."""
    sources = sources_of(args, known=known_sources)
    chosen = name or getattr(args, "pipeline", None) or ("coco" if sources else "digits")
    return build(chosen, gin_files=args.gin_file, bindings=args.gin_bindings, sources=sources)


def sources_of(args: argparse.Namespace, *, known: Sequence[str] = SOURCES, unnamed: bool = False) -> dict[str, str]:
    """Paths of the sources a command line gives, by name; "" is one without, where that is allowed."""
    sources = {key: value for key in known if (value := getattr(args, key))}
    for item in args.source:
        key, equals, value = item.partition("=")
        if not key.isidentifier():
            # A URL or path that happens to hold one.
            key, equals, value = item, "", ""
        if not equals and not unnamed:
            raise UsageError(f"--source {item}: expected NAME=DIR")
        sources[key if equals else ""] = value if equals else item
    return sources


def print_json(value: Any) -> None:
    """Writes one JSON document to stdout."""
    json.dump(value, sys.stdout, indent=2)
    print()
