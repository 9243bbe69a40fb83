"""What the parameters of a build can get wrong, said before anything is hashed, imported or retried.

A flow's stages are tried again when they fail, and a folder that is not what its parameter says costs minutes of
hashing before its builder notices. These checks read names alone, and stop at the first that fits.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from beam_jobs import sources, tables
from uio2.pipeline.places import AnyPlace, is_remote, place
from uio2.pipeline.stage import StageError, UsageError

TABLES = (*tables.SUFFIXES, ".txt", ".p", ".zip", ".tar", ".tgz", ".gz")
# What lies beside media and never is one. Parquet may hold pictures.
WORDS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".p", ".md", ".xml", ".html")
MEDIA = ("images", "depth", "normals", "audio", "video")


def check_sources(given: Mapping[str, str]) -> None:
    """Looks at what every role was given; UsageError with a line for each that cannot be meant."""
    problems = [text for role, path in given.items() if (text := _problem(role, path))]
    if problems:
        raise UsageError("\n".join(problems))


def _problem(role: str, path: str) -> str:
    there = place(path if is_remote(path) else str(Path(path).expanduser().absolute()))
    try:
        if not there.exists():
            return f"{role} = {path}: no such file or folder, as seen from where the flow runs"
        if not there.is_dir():
            return ""
        seen: set[str] = set()
        for suffix in _suffixes(there):
            seen.add(suffix)
            if (suffix not in WORDS) if role in MEDIA else (suffix in TABLES):
                return ""
    except (StageError, OSError) as error:
        return f"{role} = {path}: {error}"
    if not seen:
        return f"{role} = {path}: it holds no files; give the folder that holds the {role}"
    found = ", ".join(sorted(suffix or "no suffix" for suffix in seen)[:5])
    wanted = "something other than texts" if role in MEDIA else f"some of {', '.join(TABLES)}"
    return f"{role} = {path}: its files are {found}; expected {wanted}; give the folder that holds the {role}"


def _suffixes(there: AnyPlace) -> Iterator[str]:
    return (Path(file.name).suffix.lower() for file in sources.files(there) if not file.name.startswith("."))


def check_beam_options(text: str) -> None:
    """Asks Beam itself whether it can run with these options; UsageError naming them and what it said.

    Imports Beam (some seconds), so only for options that are given.
    """
    if not text:
        return
    try:
        flags = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"beam_options = {text!r}: {error}") from error
    if not flags or not flags[0].startswith("--"):
        raise UsageError(f"beam_options = {text!r}: expected Beam's flags, for example --runner=FnApiRunner")
    problems = _asked_of_beam(flags)
    if problems:
        raise UsageError(f"beam_options = {text!r}: " + "; ".join(problems))


def _asked_of_beam(flags: list[str]) -> list[str]:
    from apache_beam.options.pipeline_options import StandardOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.runner import create_runner

    from beam_jobs.runner import pipeline_options

    try:
        options = pipeline_options(flags)
        runner = create_runner(options.view_as(StandardOptions).runner)
        return [str(found) for found in PipelineOptionsValidator(options, runner).validate()]
    except SystemExit:  # its parser leaves the process, having printed why
        return ["a flag has a value of the wrong type"]
    except (StageError, ValueError, ImportError) as error:
        return [str(error).splitlines()[0]]
