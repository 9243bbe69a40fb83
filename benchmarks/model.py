"""Speed of the model: training steps as a fraction of the matrix rate, and compile time. JSON to stdout.

    python -m benchmarks.model                              # all cases: about five minutes on two cores
    python -m benchmarks.model --case digits base           # two of them
    python -m benchmarks.model --case compile
    python -m benchmarks.model --case gpu --rows 8          # `large` and `xl` in bfloat16; needs a GPU
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.model    # as training stages run

Cases:
- `base`: image and text in, text out, batch 2, 256 + 576 tokens in, 32 out, float32, layers scanned.
- `digits`: the preset of the embedded demo, batch 64, 20 + 36 tokens in, 20 out, float32.
- `compile`: the training step of `large` (24 + 24 layers, text only), scanned, lowered and compiled from shapes alone,
  against the same step with 4 + 4 layers written out one after another; nothing is allocated or run.
- `gpu`: the step of `base` for `large` and `xl` in bfloat16 as model-FLOP utilisation: the same fraction, against the
  bfloat16 matrix rate. Reported as not run where jax sees no GPU.

A step is loss, gradients and plain gradient descent in one jitted function that gives its parameters' memory back.
`fraction` is the step's operations (accounting: `benchmarks/flops.py`) per second over those of a square float32
product timed right before and after it in the same process; the median of the repeats' fractions counts, so that it
holds on a busy machine where times do not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.flops import Lengths, train_step
from uio2.model import ModelConfig, UnifiedIO2, multimodal_loss

LEARNING_RATE = 1e-3
CASES = ("base", "digits", "compile", "gpu")
BASE_LENGTHS = Lengths(rows=2, text_in=256, patches=576, text_out=32)
DIGITS_LENGTHS = Lengths(rows=64, text_in=20, patches=36, text_out=20)
COMPILE_LENGTHS = Lengths(rows=1, text_in=256, patches=0, text_out=32)
WRITTEN_OUT_LAYERS = 4
# Sides of the square product that stands for the matrix rate: long enough to be at it, short beside a step.
CPU_SIDE, GPU_SIDE = 2048, 8192


def main() -> None:
    args = _arguments()
    device = jax.devices()[0]
    result: dict[str, Any] = {
        "device": device.device_kind, "backend": jax.default_backend(), "cores": os.cpu_count(),
        "jax": jax.__version__, "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""), "repeats": args.repeats,
    }  # fmt: skip
    run = {"base": _base, "digits": _digits, "compile": _compile, "gpu": _gpu}
    for case in args.case:
        print(f"{case} ...", file=sys.stderr, flush=True)
        result[case] = run[case](args)
        print(f"{case} {json.dumps(result[case])}", file=sys.stderr, flush=True)
    print(json.dumps(result, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="what to measure")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps per case, after one that is not")
    parser.add_argument("--rows", type=int, default=8, help="examples per batch of the gpu case")
    return parser.parse_args()


def _base(args: argparse.Namespace) -> dict[str, Any]:
    return _train_step(ModelConfig.preset("base"), BASE_LENGTHS, repeats=args.repeats, side=CPU_SIDE)


def _digits(args: argparse.Namespace) -> dict[str, Any]:
    return _train_step(ModelConfig.preset("digits"), DIGITS_LENGTHS, repeats=3 * args.repeats, side=CPU_SIDE)


def _gpu(args: argparse.Namespace) -> dict[str, Any]:
    if jax.default_backend() != "gpu":
        return {"run": False, "reason": f"jax sees no GPU (backend {jax.default_backend()})"}
    lengths = dataclasses.replace(BASE_LENGTHS, rows=args.rows)
    sizes = {name: dataclasses.replace(ModelConfig.preset(name), dtype="bfloat16") for name in ("large", "xl")}
    found = {name: _train_step(config, lengths, repeats=args.repeats, side=GPU_SIDE) for name, config in sizes.items()}
    return {"run": True, **found}


def _compile(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds to lower and compile; `per_layer_ratio` compares what a layer pair costs written out and scanned."""
    text = {"input_modalities": ("text",), "target_modalities": ("text",)}
    scanned = ModelConfig.preset("large").with_overrides(text | {"scan_unroll": 1})
    few = {"num_encoder_layers": WRITTEN_OUT_LAYERS, "num_decoder_layers": WRITTEN_OUT_LAYERS, "scan_unroll": 0}
    written_out = scanned.with_overrides(few)
    seconds = {"scanned": _compile_seconds(scanned), "written_out": _compile_seconds(written_out)}
    scale = scanned.num_encoder_layers / WRITTEN_OUT_LAYERS
    return {
        "scanned_layers": 2 * scanned.num_encoder_layers, "scanned_s": round(seconds["scanned"], 2),
        "written_out_layers": 2 * WRITTEN_OUT_LAYERS, "written_out_s": round(seconds["written_out"], 2),
        "written_out_scaled_s": round(seconds["written_out"] * scale, 2),
        "scanned_over_written_out_scaled": round(seconds["scanned"] / (seconds["written_out"] * scale), 4),
    }  # fmt: skip


def _compile_seconds(config: ModelConfig) -> float:
    graph, params = nnx.split(nnx.eval_shape(lambda: UnifiedIO2(config, rngs=nnx.Rngs(0))))
    batch = _batch(config, COMPILE_LENGTHS)
    start = time.perf_counter()
    _step_of(graph).lower(params, jax.eval_shape(lambda: batch)).compile()
    return time.perf_counter() - start


def _train_step(config: ModelConfig, lengths: Lengths, *, repeats: int, side: int) -> dict[str, Any]:
    """Times matrix product, step, matrix product, ...: each step is compared with its two neighbours."""
    config = config.with_overrides({"input_modalities": ("text", "image"), "target_modalities": ("text",)})
    graph, params = nnx.split(_model(config))
    batch = jax.device_put(_batch(config, lengths))
    step, flops = _step_of(graph), train_step(config, lengths)
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((side, side), np.float32), config.dtype)
    product = jax.jit(lambda a: a @ a)
    seconds, _ = _timed(lambda: product(matrix))
    first, (params, _) = _timed(lambda: step(params, batch))
    products, steps = [_timed(lambda: product(matrix))[0]], []
    for i in range(repeats):
        seconds, (params, loss) = _timed(lambda p=params: step(p, batch))
        steps.append(seconds)
        products.append(_timed(lambda: product(matrix))[0])
        print(f"  step {i + 1} of {repeats}: {seconds:.3f} s, loss {float(loss):.4f}", file=sys.stderr, flush=True)
    rates = 2 * side**3 / np.asarray(products)
    nearby = (rates[:-1] + rates[1:]) / 2
    fractions = flops.total / np.asarray(steps) / nearby
    return {
        **dataclasses.asdict(lengths), "dtype": config.dtype,
        "parameters_million": round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 1),
        "gflop": {part: round(n / 1e9, 2) for part, n in dataclasses.asdict(flops).items()},
        "total_gflop": round(flops.total / 1e9, 2),
        "step_ms": round(float(np.median(steps)) * 1e3, 1), "first_step_s": round(first, 1),
        "matmul_gflops": round(float(np.median(rates)) / 1e9, 1),
        "fraction": round(float(np.median(fractions)), 3),
        "fraction_quartiles": [round(float(q), 3) for q in np.quantile(fractions, (0.25, 0.75))],
    }  # fmt: skip


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - start, result


def _model(config: ModelConfig) -> UnifiedIO2:
    """Small random numbers everywhere, without compiling an initialiser per parameter."""
    graph, state = nnx.split(nnx.eval_shape(lambda: UnifiedIO2(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    fill = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * 0.02), state)
    return nnx.merge(graph, fill)


def _step_of(graph: Any) -> Any:
    """(parameters, batch) -> (parameters after one step of gradient descent, loss), jitted."""

    def loss(params: Any, batch: Mapping[str, Any]) -> Any:
        return multimodal_loss(nnx.merge(graph, params)(batch))[0]

    def step(params: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        value, gradients = jax.value_and_grad(loss)(params, batch)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradients), value

    return jax.jit(step, donate_argnums=0)


def _batch(config: ModelConfig, lengths: Lengths) -> dict[str, np.ndarray]:
    """Random tokens and patches, nothing padded; no picture where there are no patches."""
    rng = np.random.default_rng(0)

    def ones(length: int) -> np.ndarray:
        return np.ones((lengths.rows, length), np.int32)

    def tokens(length: int) -> np.ndarray:
        return rng.integers(2, config.text_vocab_size, (lengths.rows, length)).astype(np.int32)

    source, target = ones(lengths.text_in), ones(lengths.text_out)
    targets = tokens(lengths.text_out)
    batch = {
        "inputs/text/tokens": tokens(lengths.text_in),
        "inputs/text/mask": source,
        "inputs/text/pos_ids": source.cumsum(axis=1, dtype=np.int32) - 1,
        "targets/text/targets": targets,
        "targets/text/inputs": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "targets/text/mask": target,
        "targets/text/pos_ids": target.cumsum(axis=1, dtype=np.int32) - 1,
        "targets/text/segment_ids": target,
    }
    if lengths.patches:
        seen = ones(lengths.patches)
        batch["inputs/image/input"] = rng.standard_normal((*seen.shape, config.patch_dim), np.float32)
        batch["inputs/image/mask"] = seen
        batch["inputs/image/pos_ids"] = seen.cumsum(axis=1, dtype=np.int32) - 1
    return batch


if __name__ == "__main__":
    main()
