"""Parameters by name: what the leaf at a path is called, and glob patterns over names.

A name is a path's parts joined by "/", the same as in a checkpoint: NNX keeps each array in a leaf `value`, and
training with adapters keeps the model under `model`; neither is part of a name. `*` in a pattern stands for any part of
a name.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import itertools
from collections.abc import Iterable
from typing import Any

import jax

from uio2.pipeline.stage import StageError

MODEL, ADAPTERS = "model", "adapters"


def parameter_name(path: Any) -> str:
    """The name of the leaf at a path of `jax.tree_util`."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.removesuffix("/value").removeprefix(f"{MODEL}/")


def parameter_names(params: Any) -> tuple[str, ...]:
    """The names of all leaves, in the order of the leaves."""
    return tuple(parameter_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))


def is_stacked(name: str) -> bool:
    """Whether the first axis of a parameter counts layers (`uio2.model.stack`); `layers/0/...` are one by one."""
    parts = name.split("/")
    return any(part == "layers" and not below.isdigit() for part, below in itertools.pairwise(parts))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether any pattern fits."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(patterns: Iterable[str], names: Iterable[str], *, field: str) -> None:
    """Refuses a pattern that fits none of the names.

    Raises:
      StageError: naming `field`, the pattern and the names next to it.
    """
    names = tuple(names)
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in names):
            raise StageError(f"{field} has {pattern!r}, which fits no parameter; {_near(pattern, names)}")


def _near(pattern: str, names: tuple[str, ...]) -> str:
    if inside := [name for name in names if pattern.strip("*/") in name]:
        return f"write '*{pattern.strip('*/')}*' for {', '.join(inside[:3])}{' ...' if inside[3:] else ''}"
    near = difflib.get_close_matches(pattern.replace("*", ""), names, n=3, cutoff=0.0)
    return f"the nearest are {', '.join(near)}"


@dataclasses.dataclass(frozen=True)
class Trainable:
    """Which parameters are trained; the others get neither gradient, update, decay nor moments.

    Attributes:
      only: patterns of the names that are; None for all.
      frozen: patterns of those that are not, whatever `only` says.
    """

    only: tuple[str, ...] | None = None
    frozen: tuple[str, ...] = ()

    def __call__(self, name: str) -> bool:
        """Whether the parameter of this name is trained."""
        return (self.only is None or matches(name, self.only)) and not matches(name, self.frozen)

    def mask(self, params: Any) -> tuple[bool, ...]:
        """For each leaf in order whether it is trained.

        Raises:
          StageError: none is.
        """
        mask = tuple(self(name) for name in parameter_names(params))
        if not any(mask):
            only = "" if self.only is None else f" beside {', '.join(self.only)}"
            raise StageError(f"no parameter is left to be trained{only}: {', '.join(self.frozen)} freeze the others")
        return mask
