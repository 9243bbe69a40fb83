"""A pipeline of toy stages, a diamond a -> (b, c) -> d, declared as a user declares one.

Reproduces: nothing. Cost: a second. Run: uio2 run tests.pipeline.toy_flow
"""

from __future__ import annotations

from collections.abc import Mapping

from flows.pipelines import Entry
from tests.pipeline.toy_stages import MODEL, SCORE, TOY, ToySpec
from uio2.pipeline.gin_config import GinConfig
from uio2.pipeline.stage import Pipeline, Source, Stage

ENTRY = Entry(module="tests.pipeline.toy_flow", config="tests/pipeline/toy.gin", about="toys", optional=("files",))


def build(config: GinConfig, sources: Mapping[str, Source]) -> Pipeline:
    """Each stage has the gin scope of its name."""
    a = Stage("a", TOY, config.spec(ToySpec, scope="a"), dict(sources))
    b = Stage("b", TOY, config.spec(ToySpec, scope="b"), {"a": a})
    c = Stage("c", SCORE, config.spec(ToySpec, scope="c"), {"a": a})
    d = Stage("d", MODEL, config.spec(ToySpec, scope="d"), {"b": b, "c": c})
    return Pipeline("toys", (a, b, c, d))
