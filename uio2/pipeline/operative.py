"""Resolved specs as a gin file: every value, defaults included, that reads back to the same specs.

    train.TrainSpec.steps = 1000
    train.TrainSpec.optimizer = @train_optimizer/train.OptimizerSpec()
    train_optimizer/train.OptimizerSpec.name = 'adamw'

What a spec derives (`init=False`) is not written: it follows from the rest.
"""

from __future__ import annotations

import dataclasses
import pprint
from collections.abc import Iterator, Mapping
from typing import Any

from uio2.pipeline.gin_config import REGISTRATION
from uio2.pipeline.stage import spec_to_json

OPERATIVE = "operative_config.gin"
WIDTH = 118


def operative_gin(specs: Mapping[str, Any], *, notes: Mapping[str, str] | None = None) -> str:
    """The text of a gin file.

    Args:
      specs: stage name -> its spec; no two of one class, since a file binds each class once.
      notes: stage name -> a comment above its values.
    """
    modules = sorted({part.__module__ for spec in specs.values() for part in _parts(spec)})
    aliases = _aliases(modules)
    lines = [REGISTRATION, "", *(f"import {module} as {aliases[module]}" for module in modules)]
    for stage, spec in specs.items():
        note = (notes or {}).get(stage)
        lines += [
            "",
            f"# {stage}{f': {note}' if note else ''}",
            *_bindings(spec, scope="", name=stage, aliases=aliases),
        ]
    return "\n".join(lines) + "\n"


def _parts(spec: Any) -> Iterator[type]:
    yield type(spec)
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if dataclasses.is_dataclass(value) and field.init:
            yield from _parts(value)


def _aliases(modules: list[str]) -> dict[str, str]:
    """`uio2.train.specs` -> `train`, `uio2.tasks.packing.spec` -> `packing`, any other by its last part."""
    found = {}
    for module in modules:
        *parents, last = module.split(".")
        found[module] = parents[-1] if parents and last in ("spec", "specs") else last
    return found


def _bindings(spec: Any, *, scope: str, name: str, aliases: Mapping[str, str]) -> Iterator[str]:
    selector = f"{aliases[type(spec).__module__]}.{type(spec).__qualname__}"
    prefix = f"{scope}/{selector}" if scope else selector
    inner = []
    for field in dataclasses.fields(spec):
        if not field.init:
            continue
        value = getattr(spec, field.name)
        if dataclasses.is_dataclass(value):
            own = f"{name.replace('-', '_')}_{field.name}"
            yield f"{prefix}.{field.name} = @{own}/{aliases[type(value).__module__]}.{type(value).__qualname__}()"
            inner.append((value, own))
        else:
            yield _binding(f"{prefix}.{field.name}", spec_to_json(value))
    for value, own in inner:
        yield from _bindings(value, scope=own, name=own, aliases=aliases)


def _binding(key: str, value: Any) -> str:
    text = f"{key} = {value!r}"
    if len(text) <= WIDTH or not isinstance(value, (dict, list)):
        return text
    return f"{key} = \\\n    " + pprint.pformat(value, width=WIDTH - 8, sort_dicts=False).replace("\n", "\n    ")
