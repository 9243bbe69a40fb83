"""The small world of the evaluation tests, with a tokenizer and a mixture made by their own stages."""

from __future__ import annotations

import pytest

from tests.evaluate import tiny
from tests.evaluate.conftest import world
from uio2.pipeline.artifact import Artifact

__all__ = ["mixture_inputs", "world"]


@pytest.fixture(scope="session")
def mixture_inputs(world, tmp_path_factory) -> dict[str, Artifact]:
    """Inputs of the train stage: coco, refcoco, tokenizer and mixture."""
    from uio2.tasks import register_stage, tokenizer_stage
    from uio2.tasks.specs import RegisterSpec, TokenizerSpec

    folder = tmp_path_factory.mktemp("mixture")
    data = {name: world.inputs[name] for name in ("coco", "refcoco")}
    context = tiny.context(folder / "tokenizer", **data)
    tokenizer_stage.run(TokenizerSpec(vocab_size=400), context)
    data["tokenizer"] = tiny.artifact(context.out, kind="tokenizer", name="digits/tokenizer")
    context = tiny.context(folder / "register", **data)
    recipe = RegisterSpec(image_size=(96, 96), text_inputs=48, text_targets=32, check_examples=4, prompt_set="eval")
    register_stage.run(recipe, context)
    return data | {"mixture": tiny.artifact(context.out, kind="mixture", name="digits/register")}
