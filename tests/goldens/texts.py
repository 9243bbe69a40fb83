"""Every golden text by the file that holds it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

import yaml

from flows.finetune import settings
from flows.pipelines import PIPELINES, build, entry
from uio2.model import ModelConfig
from uio2.pipeline.gin_config import operative_text
from uio2.pipeline.launch.jobset import JobSetSettings
from uio2.pipeline.launch.kubernetes import manifest_of
from uio2.pipeline.launch.topology import Slice
from uio2.pipeline.stage import Source
from uio2.pipeline.store import Store
from uio2.tasks.families import all_tasks

FOLDER = Path(__file__).parent
PRESETS = ("digits",)
SHOWN_RECIPES = (
    "configs/finetune/refexp.gin", "configs/finetune/multitask.gin", "configs/pretrain/text_denoising.gin",
)  # fmt: skip


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


def recipe_text(file: str) -> str:
    """The values of a recipe with the model `large`, from nothing."""
    found = settings(["configs/models/large.gin", file], [], store=Store(FOLDER / "nothing"))
    return f"# {file}\n\n{found.text()}"


def jobset_text(topology: str, *, slices: int, spot: bool) -> str:
    """The manifest of a training on TPU slices."""
    where = JobSetSettings(
        slice=Slice.parse(topology), image="IMAGE", claim="CLAIM", mount="/store", slices=slices, spot=spot,
        namespace="train", service_account="trainer", environment={"UIO2_PLAN": "fsdp"},
    )  # fmt: skip
    attempt = Path("/store/.tmp/0123456789abcdef-01234567")
    return yaml.safe_dump(manifest_of(where, stage="train", attempt=attempt), sort_keys=False)


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
    **{
        f"recipes/{Path(file).parent.name}-{Path(file).stem}.txt": functools.partial(recipe_text, file)
        for file in SHOWN_RECIPES
    },
    "jobsets/v5e-4x8-two-slices.txt": functools.partial(jobset_text, "v5e:4x8", slices=2, spot=False),
    "jobsets/v4-2x2x1-spot.txt": functools.partial(jobset_text, "v4:2x2x1", slices=1, spot=True),
    **{f"tasks/{name}.txt": functools.partial(task_text, name) for name in all_tasks()},
    **{f"parameters/{preset}.txt": functools.partial(parameters_text, preset) for preset in PRESETS},
}


def stored() -> dict[str, str]:
    """The golden files there are."""
    return {path.relative_to(FOLDER).as_posix(): path.read_text() for path in sorted(FOLDER.glob("*/*.txt"))}
