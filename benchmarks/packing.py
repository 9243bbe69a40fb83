"""How full packed rows are, against the original's pairs and what no packing can beat. One JSON object per case.

    python -m benchmarks.packing                      # a minute on one core
    python -m benchmarks.packing --lengths FILE       # also yours: {"input_len": [...], "target_len": [...]}

`bound_rows` is the smallest number of rows any packing needs: the total of either side over a row's length, and for
streams of up to 100 examples the linear relaxation over all sets of examples that fit in a row, which also holds for
any number of copies of the stream. `window` cases run what training runs: windows of positions, each packed on its
own into a fixed number of batches.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from uio2.model import ModelConfig, UnifiedIO2, multimodal_loss
from uio2.tasks.order import Schedule, hash64, name_key
from uio2.tasks.packing.feed import packed
from uio2.tasks.packing.sizes import PackedRow, Sizes
from uio2.tasks.packing.spec import ITEMS, PackingSpec
from uio2.tasks.packing.window import fill, pack_rows, pack_window, plan_windows

# name -> share of the examples, modality in, modality out. Pictures are 4:3 or squarer on a grid of 24 x 24 patches.
MIXED = {
    "text": (0.35, None, None), "image to text": (0.38, "inputs/image", None),
    "text to image": (0.07, None, "targets/image"), "image to image": (0.04, "inputs/image", "targets/image"),
    "audio to text": (0.11, "inputs/audio", None), "text to audio": (0.05, None, "targets/audio"),
}  # fmt: skip
PATCHES = (324, 384, 432, 432, 432, 432, 480, 576)
TOKENS = {"inputs/audio": 128, "targets/image": 1024, "targets/audio": 512}
SMALL = 100


def main() -> None:
    args = _arguments()
    for encoder in args.encoder:
        _mixed(args, encoder)
    print(json.dumps(_loss_difference()), flush=True)
    for path in args.lengths:
        lengths = json.loads(Path(path).read_text())
        lengths = lengths.get("packing", lengths)
        sides = np.array(lengths["input_len"]), np.array(lengths["target_len"])
        sizes = Sizes(*sides, np.zeros((len(sides[0]), len(ITEMS)), int))
        for strategy in ("pairs", "best_fit"):
            spec = PackingSpec(strategy, decoder={"text": max(PackingSpec().decoder.values())})
            print(json.dumps({"stream": Path(path).stem, **_pool(sizes, spec)}), flush=True)


def _mixed(args: argparse.Namespace, encoder: int) -> None:
    sizes = Mixed(seed=0).at(0, args.examples)
    for strategy in ("pairs", "best_fit"):
        figures = _pool(sizes, PackingSpec(strategy, encoder=encoder))
        print(json.dumps({"stream": "mixed", "encoder": encoder, **figures}), flush=True)
    specs = [PackingSpec("best_fit", encoder=encoder, window_rows=rows) for rows in args.window_rows]
    for spec in (*specs, PackingSpec("pairs", encoder=encoder)):
        figures = _windows(spec, batch=args.batch, windows=args.windows)
        print(json.dumps({"stream": "mixed", "encoder": encoder, **figures}), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="*", default=[], help="JSON files of length streams")
    parser.add_argument("--examples", type=int, default=8000, help="of the mixed stream, packed as one pool")
    parser.add_argument("--encoder", type=int, nargs="+", default=[864, 1728], help="tokens of an encoder row")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch")
    parser.add_argument("--window_rows", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--windows", type=int, default=4, help="windows of each size")
    return parser.parse_args()


class Mixed:
    """An endless stream like a training mixture's: tasks in the order of `Schedule`, lengths from a hash."""

    def __init__(self, *, seed: int) -> None:
        self._schedule = Schedule({name: share for name, (share, _, _) in MIXED.items()}, seed=seed)
        self._seed = seed

    def at(self, first: int, count: int) -> Sizes:
        """The examples at positions `first` and on."""
        positions = np.arange(first, first + count)
        tasks, _ = self._schedule.at(positions)
        encoder, decoder = self._text(positions, 3.5, 0.8, "in"), self._text(positions, 2.5, 1.0, "out")
        items = np.zeros((count, len(ITEMS)), int)
        patches = np.array(PATCHES)[hash64(self._seed, name_key("patches"), positions) % len(PATCHES)]
        for number, name in enumerate(self._schedule.tasks):
            here = tasks == number
            _, seen, made = MIXED[name]
            for item in (seen, made):
                if item:
                    items[here, ITEMS.index(item)] = 1
            if seen:
                encoder[here] += patches[here] if seen == "inputs/image" else TOKENS[seen]
            if made:
                decoder[here] = TOKENS[made]
        return Sizes(encoder, decoder, items)

    def _text(self, positions: np.ndarray, mean: float, deviation: float, name: str) -> np.ndarray:
        """Log-normal lengths of 2 to 250 tokens."""
        u = (hash64(self._seed, name_key(name), positions, np.arange(2)[:, None]) >> np.uint64(11)) * 2.0**-53
        normal = np.sqrt(-2 * np.log(np.maximum(u[0], 1e-12))) * np.cos(2 * np.pi * u[1])
        return np.clip(np.exp(mean + deviation * normal), 2, 250).astype(int)


def _pool(sizes: Sizes, spec: PackingSpec) -> dict[str, Any]:
    start = time.perf_counter()
    rows = pack_rows(sizes, spec=spec)
    seconds = time.perf_counter() - start
    bound = _bound(sizes, spec)
    return {
        "case": "pool", "strategy": spec.strategy, "examples": len(sizes), "rows": len(rows), "bound_rows": bound,
        "encoder_fill": round(float(sizes.encoder.sum()) / spec.encoder / len(rows), 4),
        "best_encoder_fill": round(float(sizes.encoder.sum()) / spec.encoder / bound, 4),
        "decoder_fill": round(float(sizes.decoder.sum()) / sum(_decoders(rows, spec)), 4),
        "examples_per_row": round(len(sizes) / len(rows), 3), "overflow": _overflow(rows, sizes, spec),
        "us_per_example": round(1e6 * seconds / len(sizes), 1),
    }  # fmt: skip


def _decoders(rows: list[PackedRow], spec: PackingSpec) -> Iterator[int]:
    return (spec.decoder[row.kind] for row in rows)


def _overflow(rows: list[PackedRow], sizes: Sizes, spec: PackingSpec) -> int:
    """Tokens without a place."""
    over = 0
    for row, decoder in zip(rows, _decoders(rows, spec), strict=True):
        members = list(row.members)
        over += max(int(sizes.encoder[members].sum()) - spec.encoder, 0)
        over += max(int(sizes.decoder[members].sum()) - decoder, 0)
    return over


def _bound(sizes: Sizes, spec: PackingSpec) -> int:
    lengths, limits = np.stack([sizes.encoder, sizes.decoder], 1), np.array([spec.encoder, max(spec.decoder.values())])
    volume = math.ceil((lengths.sum(axis=0) / limits).max() - 1e-9)
    large = int((2 * lengths > limits).sum(axis=0).max())
    return max(volume, large, _relaxation(lengths, limits) if len(sizes) <= SMALL else 0)


def _relaxation(lengths: np.ndarray, limits: np.ndarray) -> int:
    """Rows of the best fractional choice of sets that fit, by column generation."""
    count = len(lengths)
    sets = np.eye(count)
    while True:
        found = linprog(np.ones(sets.shape[1]), A_ub=-sets, b_ub=-np.ones(count), method="highs")
        worth = -found.ineqlin.marginals
        best = milp(
            -worth, constraints=LinearConstraint(lengths.T, ub=limits), integrality=np.ones(count), bounds=Bounds(0, 1)
        )
        if -best.fun < 1 + 1e-6:
            return math.ceil(found.fun - 1e-6)
        sets = np.column_stack([sets, best.x > 0.5])


def _loss_difference() -> dict[str, Any]:
    """Of the same examples in rows of their own and packed, with texts and pictures and a small random model."""
    side = {"num_heads": 2, "head_dim": 16, "mlp_dim": 64}
    config = ModelConfig.preset("digits").with_overrides({"emb_dim": 32, **side, "num_encoder_layers": 2,
        "num_decoder_layers": 2, "image_vit": {"emb_dim": 32, **side, "num_layers": 2}})  # fmt: skip
    rng, count, patches = np.random.default_rng(0), 64, config.image_grid[0] * config.image_grid[1]
    lengths, seen = rng.integers(4, 20, (2, count)), rng.random(count) < 0.6
    values = _batch(rng, lengths, seen, patches=patches, width=3 * config.image_patch_size**2)
    items = np.zeros((count, len(ITEMS)), int)
    items[:, ITEMS.index("inputs/image")] = seen
    sizes = Sizes(lengths[0] + patches * seen, lengths[1], items)
    spec = PackingSpec("best_fit", encoder=192, decoder={"text": 96}, window_rows=8)
    plan = plan_windows(sizes, spec=spec, rows=8)
    (batch,) = pack_window(sizes, spec=spec, windows=plan, seed=0, window=0)
    rows = packed({key: value[batch.members] for key, value in values.items()}, batch)
    graph, state = nnx.split(UnifiedIO2(config, rngs=nnx.Rngs(0)))
    options = {"horizontally_pack_inputs": batch.encoder, "horizontally_pack_targets": batch.decoder}

    def loss(batch: Any, **lengths: int) -> float:
        return float(jax.jit(lambda s, b: multimodal_loss(nnx.merge(graph, s)(b, **lengths))[0])(state, batch))

    losses = loss(values), loss(rows, **options)
    return {"case": "loss", "examples": count, "rows": batch.rows, "loss": losses[0], "packed_loss": losses[1],
            "relative_difference": abs(losses[1] / losses[0] - 1), **fill([batch], sizes)}  # fmt: skip


def _batch(
    rng: np.random.Generator, lengths: np.ndarray, seen: np.ndarray, *, patches: int, width: int
) -> dict[str, Any]:
    """A model batch of texts, some with a picture."""
    positions = np.broadcast_to(np.arange(lengths.max(), dtype=np.int32), (len(seen), lengths.max()))
    tokens, targets = (np.where(positions < n[:, None], rng.integers(2, 300, positions.shape), 0).astype(np.int32)
                       for n in lengths)  # fmt: skip
    mask = np.broadcast_to(seen[:, None], (len(seen), patches)).astype(np.int32)
    return {
        "inputs/text/tokens": tokens, "inputs/text/mask": (tokens > 0).astype(np.int32),
        "inputs/text/pos_ids": positions,
        "inputs/image/input": rng.standard_normal((*mask.shape, width), np.float32), "inputs/image/mask": mask,
        "inputs/image/pos_ids": np.broadcast_to(np.arange(patches, dtype=np.int32), mask.shape),
        "targets/text/inputs": np.pad(targets, ((0, 0), (1, 0)))[:, :-1], "targets/text/targets": targets,
        "targets/text/mask": (targets > 0).astype(np.int32), "targets/text/pos_ids": positions,
        "targets/text/segment_ids": (targets > 0).astype(np.int32),
    }  # fmt: skip


def _windows(spec: PackingSpec, *, batch: int, windows: int) -> dict[str, Any]:
    stream = Mixed(seed=1)
    plan = plan_windows(stream.at(0, 4096), spec=spec, rows=batch)
    found, shapes, seconds = [], set(), 0.0
    for window in range(windows):
        sizes = stream.at(window * plan.positions, plan.positions)
        start = time.perf_counter()
        batches = pack_window(sizes, spec=spec, windows=plan, seed=0, window=window)
        seconds += time.perf_counter() - start
        found.append(fill(batches, sizes))
        shapes |= {(b.rows, b.places, b.encoder, b.decoder) for b in batches}
    return {
        "case": "windows", "strategy": spec.strategy, "window_rows": spec.window_rows, "examples": plan.positions,
        "batches": plan.steps, **{key: round(float(np.mean([f[key] for f in found])), 4) for key in found[0]},
        "shapes": len(shapes), "seconds_per_window": round(seconds / windows, 3),
    }  # fmt: skip


if __name__ == "__main__":
    main()
