"""One process of a small training: `python -m tests.train.crew_member FOLDER [STEP=ACTION ...]`.

A table and two matrices under names that the plans split, on batches of numbers that depend on the step alone. Actions:
`kill`, `term` and `end` happen to this process where the batch of a step (from 0) is asked for. The parameters go to
`FOLDER/out/params.npz`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from uio2.model.sharding import Plan
from uio2.pipeline.stage import StageContext, StageError
from uio2.train.execution import Execution
from uio2.train.loop import Interrupted, Loop, train
from uio2.train.models import Start
from uio2.train.optim.names import parameter_name
from uio2.train.optimizer import make_optimizer, schedule
from uio2.train.processes import crew
from uio2.train.sharding import Share, made_in_place, open_mesh, parameter_shardings, whole
from uio2.train.specs import OptimizerSpec, SavingSpec

STEPS, ROWS, WORDS = 16, 8, 32
Params = dict[str, dict]


def new_params() -> Params:
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "text_embedder": {"embedding": jax.random.normal(keys[0], (WORDS, 16))},
        "decoder": {
            "mlp": {
                "wi_0": {"kernel": jax.random.normal(keys[1], (16, 24)) / 4},
                "wo": {"kernel": jax.random.normal(keys[2], (24, 16)) / 5},
            }
        },
    }


def batch_of(step: int) -> dict[str, np.ndarray]:
    return {"tokens": np.random.default_rng(step).integers(0, WORDS, (ROWS, 6)).astype(np.int32)}


def batches(first: int, *, share: Share, actions: Mapping[int, str]) -> Iterator[dict[str, np.ndarray]]:
    for step in range(first, 10**9):
        action = actions.get(step)
        if action == "end":
            return
        if action:
            os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGTERM)
        yield share.take(batch_of(step))


def loss(params: Params, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    table = params["text_embedder"]["embedding"]
    mlp = params["decoder"]["mlp"]
    x = table[batch["tokens"]]
    logits = (x + jnp.tanh(x @ mlp["wi_0"]["kernel"]) @ mlp["wo"]["kernel"])[:, :-1] @ table.T
    found = jax.nn.log_softmax(logits)
    value = -jnp.take_along_axis(found, batch["tokens"][:, 1:, None], -1).mean()
    return value, {"loss": value}


def make_loop(mesh: Mesh, *, plan: Plan = "data", actions: Mapping[int, str] | None = None) -> Loop:
    """The training, this process's part of it."""
    spec = OptimizerSpec(learning_rate=0.01, warmup_steps=2)
    share = Share.of(mesh)
    return Loop(
        loss=loss, batches=lambda step: batches(step, share=share, actions=actions or {}),
        optimizer=make_optimizer(spec, steps=STEPS), learning_rate=schedule(spec, steps=STEPS), steps=STEPS,
        log_every=4, checkpoint_every=3, mesh=mesh, label="small", plan=plan, saving=SavingSpec(minutes=0),
    )  # fmt: skip


def start_on(mesh: Mesh, *, plan: Plan = "data") -> Start:
    """Parameters made where they go."""
    shapes = jax.eval_shape(new_params)
    return Start(shapes, lambda: made_in_place(new_params, parameter_shardings(shapes, plan=plan, mesh=mesh)))


def context(folder: Path) -> StageContext:
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return StageContext({}, folder / "out", folder / "work", lambda *_: None, lambda *_: None)


def run(folder: Path, actions: Mapping[int, str]) -> None:
    execution = Execution.from_environment()
    with crew(execution) as together:
        mesh = open_mesh(execution, batch_size=ROWS)
        loop, start = make_loop(mesh, plan=execution.plan, actions=actions), start_on(mesh, plan=execution.plan)
        params = train(loop, start, context(folder), crew=together).params
        flat = {parameter_name(path): whole(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
        if together.leads:
            np.savez(folder / "out" / "params.npz", **flat)


def main() -> None:
    actions = {int(step): action for step, _, action in (text.partition("=") for text in sys.argv[2:])}
    try:
        run(Path(sys.argv[1]), actions)
    except (StageError, Interrupted) as error:
        sys.exit(f"stopped: {error}")


if __name__ == "__main__":
    main()
