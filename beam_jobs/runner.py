"""Which Beam runner runs a job: in memory by default, anything else by options alone.

`UIO2_BEAM_OPTIONS` holds Beam's own flags (`--runner=DataflowRunner --project=...`). It is an environment variable,
not a field of a spec, because where a dataset is built does not change the dataset.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

from uio2.pipeline.stage import StageError, UsageError

VARIABLE = "UIO2_BEAM_OPTIONS"
WORK = "UIO2_BEAM_WORK"  # where workers on other machines leave what they write: gs:// or s3://
# Asked for by name: "DirectRunner" first tries to download another runner.
DEFAULT = ("--runner=FnApiRunner",)
ELSEWHERE = ("DataflowRunner",)  # its workers are, or may be, other machines
_MARK = re.compile(r"<<stage-error>>(.*?)<</stage-error>>", re.S)


def with_runner(runner: str, given: str) -> str:
    """Beam options `given`, on another runner: its name, and behind it any of Beam's flags, which overrule those."""
    name, *flags = shlex.split(runner)
    if name.startswith("-"):
        raise UsageError(f"runner = {runner!r}: expected a runner's name first, for example FnApiRunner")
    others = [flag for flag in shlex.split(given) if not flag.startswith("--runner=")]
    return shlex.join([f"--runner={name}", *others, *flags])


def runs_elsewhere(given: str) -> bool:
    """Whether Beam options name a runner whose workers are, or may be, other machines."""
    return any(word.rpartition("=")[2] in ELSEWHERE for word in shlex.split(given))


def pipeline_options(flags: Sequence[str] | None = None) -> Any:
    """Beam options from `flags`, else from the environment, else the in-memory runner.

    Raises:
      StageError: the multi-threaded direct mode was asked for.
    """
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

    given = shlex.split(os.environ.get(VARIABLE, "")) if flags is None else list(flags)
    options = PipelineOptions(given)
    if options.view_as(StandardOptions).runner is None:
        options = PipelineOptions([*DEFAULT, *given])
    if options.view_as(DirectOptions).direct_running_mode == "multi_threading":
        raise StageError(
            "direct_running_mode = multi_threading loses records without an error (measured: 2 of 10 runs); "
            "use in_memory or multi_processing"
        )
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    # It prints the traceback of an error that is raised as well.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    return options


def marked(error: StageError) -> StageError:
    """An error whose message survives the trip from a worker, where Beam turns exceptions into text."""
    return error if _MARK.search(str(error)) else StageError(f"<<stage-error>>{error}<</stage-error>>")


def stage_error_in(error: BaseException) -> StageError | None:
    """The stage error inside an exception that Beam raised, or None."""
    found = _MARK.search(str(error))
    return StageError(found.group(1)) if found else None
