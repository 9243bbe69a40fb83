"""Model configs from a preset and overrides, and the pure-function view of a module."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from uio2.model.config import ConfigError, ModelConfig, VitConfig


def model_config(preset: str, overrides: Mapping[str, Any]) -> ModelConfig:
    """The preset with fields replaced; `vit` takes a mapping of its own fields.

    Raises:
      ConfigError: an unknown field, with the nearest known one.
    """
    config = ModelConfig.preset(preset)
    changes = dict(overrides)
    if "vit" in changes:
        _check_fields("model_overrides.vit", changes["vit"], VitConfig)
        changes["vit"] = dataclasses.replace(config.vit, **changes["vit"])
    _check_fields("model_overrides", changes, ModelConfig)
    # JSON and gin give lists where the config has tuples.
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    return dataclasses.replace(config, **fields)


def _check_fields(where: str, given: Mapping[str, Any], klass: type) -> None:
    known = [f.name for f in dataclasses.fields(klass)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"{where} names {name!r}, unknown to {klass.__name__}" + f"; did you mean {near[0]!r}?" * bool(near)
            )


def functional[M: nnx.Module](module: M) -> tuple[Callable[[Any], M], Any]:
    """(parameters -> module, parameters): what `jax.jit` and optax work on."""
    graph, params = nnx.split(module, nnx.Param)
    return (lambda values: nnx.merge(graph, values)), params
