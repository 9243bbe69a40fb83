"""Greedy decoding against re-running the decoder and against reading its weights once. One JSON object per batch.

    python -m benchmarks.decode                         # base, text in and out, batches 1 and 4: two minutes on 2 cores
    python -m benchmarks.decode --preset large --batch 1 --length 64

Every figure of a line is measured in the same process, so ratios hold on a busy machine where times do not. A step's
time is the difference between decoding `length` tokens and decoding one, both by the same compiled loop, divided by
length - 1: the encoder and the start are not in it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from uio2.model import ModelConfig, UnifiedIO2
from uio2.model.generate import generate
from uio2.model.generate.target import EOS


def main() -> None:
    args = _arguments()
    config = ModelConfig.preset(args.preset).with_overrides(
        {"input_modalities": ("text",), "target_modalities": ("text",), "dtype": args.dtype}
    )
    model = _model(config)
    read, size = _read_seconds(model, repeats=args.repeats)
    for rows in args.batch:
        step, compile_seconds = _step_seconds(model, rows=rows, args=args)
        rerun = _rerun_seconds(model, rows=rows, args=args)
        figures = {
            "preset": args.preset, "dtype": args.dtype, "device": str(jax.devices()[0].device_kind),
            "batch": rows, "input": args.input, "length": args.length,
            "tokens_per_second": rows / step, "step_ms": step * 1e3, "compile_s": compile_seconds,
            "rerun_step_ms": rerun * 1e3, "speedup_over_rerun": rerun / step,
            "weights_mb": size / 1e6, "read_weights_ms": read * 1e3, "read_gb_per_second": size / read / 1e9,
            "fraction_of_bandwidth_bound": read / step,
        }  # fmt: skip
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base", help="size of the model, without its other modalities")
    parser.add_argument("--dtype", default="float32", help="computation: float32 or bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="rows to decode at once")
    parser.add_argument("--input", type=int, default=256, help="tokens into the encoder")
    parser.add_argument("--length", type=int, default=64, help="tokens to decode, and positions of the caches")
    parser.add_argument("--repeats", type=int, default=2, help="the fastest of so many runs counts")
    return parser.parse_args()


def _model(config: ModelConfig) -> UnifiedIO2:
    """Made on the device, without compiling an initialiser per parameter."""
    graph, state = nnx.split(nnx.eval_shape(lambda: UnifiedIO2(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    fill = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * 0.02), state)
    return nnx.merge(graph, fill)


def _fastest(run: Callable[[], Any], *, repeats: int) -> float:
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _inputs(model: UnifiedIO2, *, rows: int, length: int) -> dict[str, np.ndarray]:
    ones = np.ones((rows, length), np.int32)
    tokens = np.random.default_rng(1).integers(2, model.config.text_vocab_size, ones.shape).astype(np.int32)
    return {"inputs/text/tokens": tokens, "inputs/text/mask": ones, "inputs/text/pos_ids": np.cumsum(ones, 1) - 1}


def _step_seconds(model: UnifiedIO2, *, rows: int, args: argparse.Namespace) -> tuple[float, float]:
    """Of one token for every row, and of the first call, which compiles."""
    batch = _inputs(model, rows=rows, length=args.input)
    never = np.arange(model.config.text_vocab_size) != EOS
    long, short = np.tile(never, (args.length, 1)), np.tile(~never, (args.length, 1))

    def decode(allowed: np.ndarray) -> Callable[[], Any]:
        return lambda: generate(model, batch, max_length=args.length, allowed=allowed)

    start = time.perf_counter()
    steps = int(decode(short)().steps), int(decode(long)().steps)
    compile_seconds = time.perf_counter() - start
    assert steps == (1, args.length), steps
    spent = [_fastest(decode(allowed), repeats=args.repeats) for allowed in (short, long)]
    return (spent[1] - spent[0]) / (args.length - 1), compile_seconds


def _rerun_seconds(model: UnifiedIO2, *, rows: int, args: argparse.Namespace) -> float:
    """Of one token without caches: the whole decoder over a row of `length` positions, logits of the last."""
    ones = jnp.ones((rows, args.length), jnp.int32)
    graph, state = nnx.split(model)

    @jax.jit
    def encode(state: Any, batch: Any) -> Any:
        model = nnx.merge(graph, state)
        source = model.source(batch)
        return source, model.encoder(source)

    @jax.jit
    def step(state: Any, source: Any, encoded: Any, tokens: Any) -> Any:
        model = nnx.merge(graph, state)
        row = model.target_segment(tokens, mask=ones, pos_ids=jnp.cumsum(ones, 1) - 1)
        return model.logits(model.decoder(row, encoded=encoded, source=source)[:, -1:]).argmax(-1)

    source, encoded = encode(state, _inputs(model, rows=rows, length=args.input))
    return _fastest(lambda: step(state, source, encoded, ones), repeats=args.repeats)


def _read_seconds(model: UnifiedIO2, *, repeats: int) -> tuple[float, int]:
    """Of reading what a step reads, and its bytes: the decoder without cross keys and values, and the embedding."""
    skipped = ("cross_attention/key", "cross_attention/value")
    flat = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model))}
    weights = [
        value for name, value in flat.items()
        if name.startswith(("decoder/", "text_embedder/")) and not any(part in name for part in skipped)
    ]  # fmt: skip
    total = jax.jit(lambda arrays: [jnp.sum(array) for array in arrays])
    return _fastest(lambda: total(weights), repeats=repeats), sum(value.nbytes for value in weights)


if __name__ == "__main__":
    main()
