"""Every golden text by the file that holds it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

from flows.pipelines import PIPELINES, build, entry
from uio2.model import ModelConfig
from uio2.pipeline.gin_config import operative_text
from uio2.pipeline.stage import Source
from uio2.tasks.families import all_tasks

FOLDER = Path(__file__).parent
PRESETS = ("digits",)


def pipeline_text(name: str) -> str:
    """The graph and the operative values of a pipeline with all its sources, which stand under their own names."""
    what = entry(name)
    sources = {key: key.upper() for key in (*what.required, *what.optional)}
    pipeline = build(name, sources=sources)
    graph = []
    for stage in pipeline.stages:
        inputs = [f"{k}={v.path if isinstance(v, Source) else v.name}" for k, v in sorted(stage.inputs.items())]
        graph.append(f"{stage.name} <- {', '.join(inputs) or 'nothing'}\n")
    return f"# {what.config}\n\n{''.join(graph)}\n{operative_text(pipeline)}"


def parameters_text(preset: str) -> str:
    """Name, dtype and shape of every parameter; layers are stacked on the first axis."""
    from flax import nnx

    from uio2.model.checkpoint import tree

    state = nnx.state(tree.abstract_model(ModelConfig.preset(preset)), nnx.Param)
    leaves = {"/".join(map(str, key)): leaf for key, leaf in sorted(nnx.to_flat_state(state))}
    lines = [f"{name}  {leaf.dtype}{list(leaf.shape)}\n" for name, leaf in leaves.items()]
    total = sum(math.prod(leaf.shape) for leaf in leaves.values())
    return "".join(lines) + f"\n{len(leaves)} arrays, {total} parameters\n"


def task_text(name: str) -> str:
    """A rendered example; TensorFlow is imported here and nowhere else in this package."""
    from tests.goldens.rendered_tasks import render

    return render(name)


GOLDENS: dict[str, Callable[[], str]] = {
    **{f"pipelines/{name}.txt": functools.partial(pipeline_text, name) for name in PIPELINES},
    **{f"tasks/{name}.txt": functools.partial(task_text, name) for name in all_tasks()},
    **{f"parameters/{preset}.txt": functools.partial(parameters_text, preset) for preset in PRESETS},
}


def stored() -> dict[str, str]:
    """The golden files there are."""
    return {path.relative_to(FOLDER).as_posix(): path.read_text() for path in sorted(FOLDER.glob("*/*.txt"))}
