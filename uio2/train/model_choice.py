"""Which model a recipe means: a preset by name, or a config by its file, held as its content. Light: no jax."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from uio2.model.config import ModelConfig
from uio2.model.parts import ConfigError
from uio2.model.presets import PRESETS
from uio2.pipeline.stage import StageError


def chosen(model: str) -> str:
    """What a spec holds: the name of a preset, or what differs from `ModelConfig()` as one line of JSON.

    Args:
      model: a preset, the path of a `config.json` (ours or a published model's), or what this function returned.

    Raises:
      StageError: the file is missing or holds something else.
    """
    if not model.endswith(".json"):
        return model
    path = Path(model)
    try:
        config = read(path)
    except FileNotFoundError as error:
        raise StageError(f"model {model!r}: no such file; expected a config.json, or one of {_presets()}") from error
    except (ValueError, KeyError, TypeError) as error:  # ConfigError is a ValueError
        raise StageError(f"model {model!r} is no model config ({type(error).__name__}: {error})") from error
    for name, preset in PRESETS.items():
        if preset == config:
            return name
    return json.dumps(_changes(ModelConfig(), config), sort_keys=True)


def read(path: Path) -> ModelConfig:
    """The config in a file, in our structure or the published one."""
    values = json.loads(path.read_text())
    published = {"T5Config", "t5_config"} & values.keys()
    return ModelConfig.from_reference(values) if published else ModelConfig.from_dict(values)


def _changes(base: Any, config: Any) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(base):
        before, now = getattr(base, field.name), getattr(config, field.name)
        if before != now:
            changes[field.name] = _changes(before, now) if dataclasses.is_dataclass(before) else now
    return changes


@functools.cache
def config_of(model: str) -> ModelConfig:
    """The config behind what `chosen` returned.

    Raises:
      StageError: no preset has that name.
    """
    if model.startswith("{"):
        return ModelConfig.from_json(model)
    try:
        return ModelConfig.preset(model)
    except ConfigError as error:
        raise StageError(f"{error}; or give the path of a config.json") from error


def _presets() -> str:
    return ", ".join(PRESETS)
