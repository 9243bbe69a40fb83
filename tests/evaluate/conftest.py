"""The small world, made once per session."""

from __future__ import annotations

import pytest

from . import tiny


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> tiny.World:
    """12 training and 16 validation scenes, predictions that are right four times in five, a checkpoint."""
    return tiny.build_world(tmp_path_factory.mktemp("world"), train=12, validation=16, skill=0.8)


@pytest.fixture(scope="session")
def scored(world, tmp_path_factory) -> dict:
    """The world's inputs with `score` beside them."""
    from uio2.evaluate import score
    from uio2.evaluate.specs import ScoreSpec

    context = tiny.context(tmp_path_factory.mktemp("scored") / "score", **world.inputs)
    score.run(ScoreSpec(resamples=200), context)
    return world.inputs | {"score": tiny.artifact(context.out, kind="report", name="digits/score")}
