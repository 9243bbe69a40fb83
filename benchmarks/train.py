"""Speed of training around its step: input, checkpoints, resuming, restarting, packing. JSON to stdout.

    python -m benchmarks.train                           # all cases: some ten minutes on two cores
    python -m benchmarks.train --case resume saving      # two of them
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.train    # as training stages run

The model is `digits` (2.4 M parameters), the data scenes of digits in TFRecords, read by the real input pipeline.
- `input`: steps per second from TFRecords and of the same step on one batch again and again, in turns of which the
  medians count; `waiting` is the share of the first's time in which the device had nothing to do for want of a batch.
- `saving`: how long a save holds up the loop, and that as a share of the 500 steps between two by default.
- `resume`: restoring the state and making the first batch, at steps 10 and 100,000, in turns.
- `restart`: from the start of a process to the end of its first step, with an empty compilation cache and a filled one.
- `packing`: examples per second of a stream with and without pictures, in rows of their own and packed, in turns.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from uio2.model.config import ModelConfig
from uio2.pipeline.process import child_environment
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import Mixture, make_mixture
from uio2.tasks.packing.feed import PackedFeed
from uio2.tasks.packing.spec import PackingSpec
from uio2.tasks.specs import FIRST_PROMPTS, FIRST_TASKS, RegisterSpec, TokenizerSpec
from uio2.train.checkpoints import Checkpoints
from uio2.train.loop import Loop, prepare
from uio2.train.program import Program, start_of
from uio2.train.sharding import data_mesh, place_batch
from uio2.train.specs import SavingSpec, TrainSpec
from uio2.train.step import initial_state

CASES = ("input", "saving", "resume", "restart", "packing")
RATES = {**dict.fromkeys(FIRST_TASKS, 1.0), "denoise_text_coco": 2.0}
RECIPE = RegisterSpec(rates=RATES, image_size=(96, 96), text_inputs=48, text_targets=32)
PACKING = PackingSpec("best_fit", encoder=168, decoder={"text": 96}, window_rows=256)
MODEL = {"encoder_max_text_length": RECIPE.text_inputs, "decoder_max_text_length": RECIPE.text_targets}
INTERVAL = TrainSpec().checkpoint_every
EARLY, LATE = 10, 100_000


def main() -> None:
    args = _arguments()
    if args.child:
        return _first_step(Path(args.child), args)
    result: dict[str, Any] = {
        "model": "digits", "batch": args.batch, "turns": args.turns, "steps": args.steps, "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()], "jax": jax.__version__,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }  # fmt: skip
    run = {"input": _input, "saving": _saving, "resume": _resume, "restart": _restart, "packing": _packing}
    with tempfile.TemporaryDirectory() as folder:
        _write_data(Path(folder), scenes=args.scenes)
        for case in args.case:
            result[case] = run[case](Path(folder), args)
            print(f"{case} {json.dumps(result[case])}", file=sys.stderr, flush=True)
    result["load_at_the_end"] = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps(result, indent=1))
    return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="what to measure")
    parser.add_argument("--batch", type=int, default=64, help="examples of a step")
    parser.add_argument("--steps", type=int, default=30, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=5, help="of each side; the median counts")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _write_data(folder: Path, *, scenes: int) -> None:
    from tests.tiny import scenes as tiny
    from uio2.tasks.tokenizer_stage import prompt_lines, train

    tiny.build(folder, train=scenes, validation=1)
    lines = [*prompt_lines(FIRST_PROMPTS), "a red 3 and a blue 7, version 2", "What is the colour of the 5?"] * 4
    (folder / "tokenizer.model").write_bytes(train(lines, spec=TokenizerSpec(vocab_size=400)))


def _mixture(folder: Path) -> Mixture:
    datasets = {"coco": folder / "coco_all" / "1.0.0", "refcoco": folder / "ref_coco" / "1.0.0"}
    return make_mixture(RECIPE, datasets=datasets, tokenizer=folder / "tokenizer.model")


class Training:
    """The step of a recipe with a state that it moves on."""

    def __init__(self, spec: TrainSpec, stream: Iterator[Any], *, tasks: tuple[str, ...]) -> None:
        config = ModelConfig.from_dict(spec.model_config)
        self.mesh = data_mesh(batch_size=spec.packing.groups if spec.packing.packs else spec.batch_size)
        module, start = start_of(spec, config, inputs={}, plan="data", mesh=self.mesh)
        program = Program(spec, config, module, tasks)
        self.loop: Loop = program.loop(batches=lambda _: stream, mesh=self.mesh)
        self.head = next(stream)
        self._update, self.shapes, zeros = prepare(self.loop, start, self.head)
        self.state = jax.jit(functools.partial(initial_state, self.loop, sums=zeros))(start.make())

    def turn(self, stream: Iterator[Any], steps: int) -> tuple[float, float]:
        """(seconds of so many steps, those of them in which the device waited for a batch)."""
        began, waited = time.perf_counter(), 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(stream)
            if self.state["steps"].is_ready():
                waited += time.perf_counter() - asked
            assert self.loop.static is not None
            self.state = self._update(self.state, place_batch(batch, self.mesh), self.loop.static(batch))
        jax.block_until_ready(self.state)
        return time.perf_counter() - began, waited


def _plain(folder: Path, args: argparse.Namespace) -> tuple[Training, Iterator[Any]]:
    feed = Feed(_mixture(folder), seed=0)
    stream = feed.batches(batch_size=args.batch)
    return Training(TrainSpec(model_overrides=MODEL, batch_size=args.batch), stream, tasks=feed.tasks), stream


def _input(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    training, stream = _plain(folder, args)
    sides = {"records": stream, "fixed": itertools.repeat(training.head)}
    turns = _in_turns(lambda name: training.turn(sides[name], args.steps), list(sides), args.turns)
    rate = {name: args.steps / float(np.median([t for t, _ in found])) for name, found in turns.items()}
    ratios = [fixed / records for (records, _), (fixed, _) in zip(turns["records"], turns["fixed"], strict=True)]
    return {
        "steps_per_s": round(rate["records"], 3), "fixed_steps_per_s": round(rate["fixed"], 3),
        "of_fixed": round(float(np.median(ratios)), 3),
        "of_fixed_quartiles": [round(float(q), 3) for q in np.quantile(ratios, (0.25, 0.75))],
        "waiting": round(float(np.median([w / t for t, w in turns["records"]])), 5),
    }  # fmt: skip


def _in_turns(run: Any, names: list[str], turns: int) -> dict[str, list[Any]]:
    """What each gives, in turns; the first turn of all is not counted, for it compiles and fills buffers."""
    found: dict[str, list[Any]] = {name: [] for name in names}
    for turn in range(turns + 1):
        for name in names:
            value = run(name)
            if turn:
                found[name].append(value)
    return found


def _saving(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    training, _ = _plain(folder, args)
    fixed = itertools.repeat(training.head)
    training.turn(fixed, 3)
    seconds, stalls = [], []
    with Checkpoints(folder / "saving", saving=SavingSpec(minutes=0)) as checkpoints:
        for save in range(1, args.turns + 2):
            seconds.append(training.turn(fixed, args.steps)[0] / args.steps)
            stalls.append(checkpoints.save(save, training.state))
    stall, step = float(np.median(stalls[1:])), float(np.median(seconds))
    return {
        "state_mb": round(sum(leaf.nbytes for leaf in jax.tree.leaves(training.state)) / 1e6, 1),
        "stall_s": round(stall, 4), "step_s": round(step, 4), "interval_steps": INTERVAL,
        "of_interval": round(stall / (INTERVAL * step), 6),
    }  # fmt: skip


def _resume(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    training, _ = _plain(folder, args)
    mixture = _mixture(folder)
    with Checkpoints(folder / "resume", saving=SavingSpec(minutes=0)) as checkpoints:
        for step in (EARLY, LATE):
            checkpoints.save(step, training.state, wait=True)

        def resumed(step: str) -> float:
            began = time.perf_counter()
            jax.block_until_ready(checkpoints.restore(int(step), training.shapes))
            next(Feed(mixture, seed=0).batches(batch_size=args.batch, start_step=int(step)))
            return time.perf_counter() - began

        found = _in_turns(resumed, [str(EARLY), str(LATE)], args.turns)
    return {f"at_step_{step}_s": round(float(np.median(values)), 3) for step, values in found.items()}


def _restart(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    cache, found = folder / "cache", {}
    for name in ("empty_cache", "filled_cache"):
        command = [sys.executable, "-m", "benchmarks.train", "--child", str(folder), "--batch", str(args.batch)]
        done = subprocess.run(
            command, env=child_environment(folder, cache=cache), check=True, capture_output=True, text=True
        )
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def _first_step(folder: Path, args: argparse.Namespace) -> None:
    """One step in a process of its own."""
    training, stream = _plain(folder, args)
    ready = time.time()
    training.turn(itertools.chain([training.head], stream), 1)
    began = psutil.Process().create_time()
    print(
        json.dumps(
            {"first_step_after_s": round(time.time() - began, 2), "of_that_step_s": round(time.time() - ready, 2)}
        )
    )
    sys.stdout.flush()
    os._exit(0)  # threads of TensorFlow can hang at the interpreter's end


def _packing(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    mixture = _mixture(folder)
    feed = PackedFeed(mixture, packing=PACKING, rows=args.batch // 2, latents={}, seed=0)
    packed = feed.batches()
    per_step = feed.windows.positions / feed.windows.steps
    spec = TrainSpec(model_overrides=MODEL, batch_size=args.batch // 2, packing=PACKING)
    plain, stream = _plain(folder, args)
    sides = {"plain": (plain, stream), "packed": (Training(spec, packed, tasks=feed.tasks), packed)}
    turns = _in_turns(lambda name: sides[name][0].turn(sides[name][1], args.steps)[0], list(sides), args.turns)
    ratios = np.array(turns["plain"]) / np.array(turns["packed"]) * per_step / args.batch
    return {
        "examples_per_s": round(args.batch * args.steps / float(np.median(turns["plain"])), 1),
        "packed_examples_per_s": round(per_step * args.steps / float(np.median(turns["packed"])), 1),
        "times_faster": round(float(np.median(ratios)), 3), "packed_examples_per_step": round(per_step, 1),
        "rows": args.batch // 2, "tokens_per_row": [PACKING.encoder, PACKING.decoder["text"]],
        "tokens_per_plain_row": [RECIPE.text_inputs + 36, RECIPE.text_targets],
    }  # fmt: skip


if __name__ == "__main__":
    main()
