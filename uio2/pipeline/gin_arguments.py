"""gin bindings on a command line, in the habit of the field: `--gin.NAME=VALUE`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from uio2.pipeline.stage import UsageError


def split_gin_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--gin.X=Y` (or `--gin.X Y`) out of a command line; returns (the other arguments, bindings)."""
    rest: list[str] = []
    bindings: list[str] = []
    pending: str | None = None
    for argument in arguments:
        if pending is not None:
            bindings.append(f"{pending}={argument}")
            pending = None
        elif match := re.fullmatch(r"--gin\.([^=]+)(=.*)?", argument, flags=re.DOTALL):
            if match[2] is None:
                pending = match[1]
            else:
                bindings.append(match[1] + match[2])
        else:
            rest.append(argument)
    if pending is not None:
        raise UsageError(f"--gin.{pending} has no value; write --gin.{pending}=VALUE")
    return rest, bindings
