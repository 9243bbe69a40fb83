"""Examples per second and core of the training feed, against decoding alone. One JSON object per task.

    python -m benchmarks.input                       # 640x480 JPEGs to a 384x384 canvas: a minute
    python -m benchmarks.input --augment --tasks refcoco_unc
    python -m benchmarks.input --cut 0.01            # one file in a hundred is cut off: what broken input costs

Three pipelines over the same JPEGs, about as large as those of COCO (163 KB on average): decoding alone, which nothing
that decodes can beat; plain tf.data (decode, antialiased resize, crop, batch); and the feed, from stored records to
model batches. Each runs on one thread and is judged by the CPU seconds of the process, in turns of which the median
counts, so that other work on the machine changes the ratios little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.jpegs import jpeg
from tests.tiny import scenes
from uio2.tasks.feed import Feed, data_options
from uio2.tasks.mixture import Mixture, make_mixture
from uio2.tasks.specs import RegisterSpec, TokenizerSpec
from uio2.tasks.tokenizer_stage import prompt_lines, train
from uio2.tasks.vocabulary import UnifiedVocabulary

WORDS = ["small", "red", "dog", "beside", "two", "tall", "people", "under", "the", "old", "bridge", "umbrella"]
DATA = {"refcoco_unc": "refcoco", "image_caption_coco_2017": "coco"}
QUALITY = 95
IDLE_SECONDS = 0.05


def main() -> None:
    args = _arguments()
    files = [jpeg(number, height=args.height, width=args.width, quality=QUALITY) for number in range(args.files)]
    damaged = round(args.cut * args.files)
    stored = [data[: len(data) // 2] if number < damaged else data for number, data in enumerate(files)]
    with tempfile.TemporaryDirectory() as folder:
        folders = {
            "coco": scenes.write(Path(folder), "coco_all", scenes.COCO, {"train": _coco(stored)}),
            "refcoco": scenes.write(Path(folder), "ref_coco", scenes.REFCOCO, {"train": _refcoco(stored)}),
        }
        vocabulary = UnifiedVocabulary(_tokenizer(), source="trained on the words of the benchmark")
        for task in args.tasks:
            recipe = RegisterSpec(rates={task: 1.0}, image_size=(args.size,) * 2, augment=args.augment)
            mixture = make_mixture(recipe, datasets={DATA[task]: folders[DATA[task]]}, tokenizer=vocabulary)
            print(json.dumps(_compare(files, mixture, task=task, args=args)), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--height", type=int, default=480, help="of the JPEGs, pixels")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--size", type=int, default=384, help="side of the canvas")
    parser.add_argument("--augment", action="store_true", help="random scale and crop, as in training on photos")
    parser.add_argument("--cut", type=float, default=0.0, help="share of the stored files that are cut in the middle")
    parser.add_argument("--files", type=int, default=100, help="different JPEGs")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=9, help="of each pipeline; the median counts")
    parser.add_argument("--turn", type=int, default=192, help="examples of a turn")
    return parser.parse_args()


def _compare(files: list[bytes], mixture: Mixture, *, task: str, args: argparse.Namespace) -> dict[str, Any]:
    feed = Feed(mixture, seed=0, parallel=1)
    streams: dict[str, Iterator] = {
        "decode": _forever(files, _decode, args.batch),
        "plain": _forever(files, lambda data: _plain(data, size=args.size), args.batch),
        "feed": feed.batches(batch_size=args.batch),
    }
    batches = args.turn // args.batch
    for stream in streams.values():
        _take(stream, batches)
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(args.turns):
        for name, stream in streams.items():
            seconds[name].append(_cpu_seconds(lambda s=stream: _take(s, batches)))
    rate = {name: batches * args.batch / np.median(values) for name, values in seconds.items()}
    against = {name: np.array(seconds[name]) / np.array(seconds["feed"]) for name in ("decode", "plain")}
    figures = {
        "task": task, "jpeg": [args.height, args.width], "jpeg_kb": round(float(np.mean([*map(len, files)])) / 1e3),
        "canvas": args.size, "augment": args.augment, "batch": args.batch, "turns": args.turns,
        **{f"{name}_per_cpu_second": round(value, 1) for name, value in rate.items()},
        **{f"of_{name}": round(float(np.median(ratios)), 3) for name, ratios in against.items()},
        "of_decode_quartiles": [round(float(q), 3) for q in np.quantile(against["decode"], (0.25, 0.75))],
    }  # fmt: skip
    return figures | {"dropped_share": round(feed.stats.dropped.total() / feed.stats.examples, 4)}


def _forever(files: list[bytes], make: Callable[[tf.Tensor], tf.Tensor], batch: int) -> Iterator[Any]:
    """Batches of what `make` gives for a file, of the first pixel alone where images differ in size."""
    stream = tf.data.Dataset.from_tensor_slices(files).cache().repeat()
    stream = stream.map(make, num_parallel_calls=1, deterministic=True).batch(batch).prefetch(4)
    return iter(stream.with_options(data_options(1)))


def _take(stream: Iterator[Any], count: int) -> None:
    for _ in itertools.islice(stream, count):
        pass
    # What runs ahead fills its buffers again, so that a turn pays for as many batches as it takes.
    busy = time.process_time()
    while time.sleep(IDLE_SECONDS) or time.process_time() - busy > IDLE_SECONDS / 10:
        busy = time.process_time()


def _cpu_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _decode(data: tf.Tensor) -> tf.Tensor:
    """Every pixel is decoded; one is kept, so that copying them is no part of it."""
    return tf.io.decode_jpeg(data, channels=3)[0, 0]


def _plain(data: tf.Tensor, *, size: int) -> tf.Tensor:
    """The shorter side to the canvas, then a random crop."""
    pixels = tf.io.decode_jpeg(data, channels=3)
    shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
    scaled = tf.cast(tf.math.ceil(shape * size / tf.reduce_min(shape)), tf.int32)
    return tf.image.random_crop(tf.image.resize(pixels, scaled, antialias=True), [size, size, 3])


def _text(rng: np.random.Generator, count: int) -> str:
    return " ".join(rng.choice(WORDS, count))


def _tokenizer() -> bytes:
    lines = [*prompt_lines(["image_captioning", "referring_expression"]), " ".join(WORDS)] * 4
    return train(lines, spec=TokenizerSpec(vocab_size=600))


def _coco(files: list[bytes]) -> list[dict[str, Any]]:
    """Five captions of ten words each, as COCO."""
    rng = np.random.default_rng(0)
    return [
        {"image": data, "image/filename": f"{n}.jpg", "image/id": n,
         "captions": {"num": 5, "id": [5 * n + k for k in range(5)], "text": [_text(rng, 10) for _ in range(5)]},
         "vqa": {"num": 0, "id": [], "questions": [], "answers": []}, "objects": []}
        for n, data in enumerate(files)
    ]  # fmt: skip


def _refcoco(files: list[bytes]) -> list[dict[str, Any]]:
    """Three objects with three expressions of four words each."""
    rng = np.random.default_rng(1)
    rows = []
    for n, data in enumerate(files):
        corners = np.sort(rng.uniform(size=(3, 2, 2)), axis=1).reshape(3, 4)
        objects = [
            {"area": 1, "bbox": scenes.F.BBox(*corner), "id": 10 * n + k, "label": k,
             "refexp": [{"refexp_id": 100 * n + 10 * k + i, "raw": _text(rng, 4)} for i in range(3)]}
            for k, corner in enumerate(corners)
        ]  # fmt: skip
        rows.append({"image": data, "image/id": n, "objects": objects})
    return rows


if __name__ == "__main__":
    main()
