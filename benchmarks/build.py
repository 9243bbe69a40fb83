"""Images per second of `build-coco`, against decoding and encoding again and against a bare copy. JSON lines.

    python -m benchmarks.build                       # 1500 JPEGs of 640x480, five captions and seven objects each
    python -m benchmarks.build --images 500 --turns 1 --skip memory workers

`speed`: the builder in memory on one worker, a plain TFDS `GeneratorBasedBuilder` that is given pixels, as the field's
scripts do it, a loop that puts the same bytes into TFRecords, which is the limit, and that loop with the check that
every image decodes. All in one process, in turns, by its CPU seconds. `workers`: wall seconds of one and of two worker
processes, of the images beyond a small build, so that their start does not count. `memory`: the largest process of
builds of 2,000 and 20,000 images, and of streaming an annotation file of some hundred megabytes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jpegs import jpeg

WORDS = ["man", "with", "an", "old", "red", "umbrella", "stands", "beside", "dogs", "under", "bridge", "near", "water"]
DIFFERENT = 50
SPEED, WORKERS, MEMORY = "speed", "workers", "memory"


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        files = [jpeg(n, height=480, width=640, quality=args.quality) for n in range(DIFFERENT)]
        if SPEED not in args.skip:
            _print({"case": SPEED, **_speed(_raw(folder / "speed", files, args.images), args)})
        if WORKERS not in args.skip:
            _print({"case": WORKERS, **_workers(folder, files, args)})
        if MEMORY not in args.skip:
            for count in (2_000, 20_000):
                raw = _raw(folder / f"memory-{count}", files, count)
                peak = _in_process(_build_peak, raw, folder)
                _print({"case": MEMORY, "images": count, "annotations_mb": _size(raw), "peak_mb": peak})
            path = folder / "large.json"
            _print({"case": MEMORY, **_large_json(path, megabytes=args.json_mb)})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--quality", type=int, default=92, help="of the JPEGs; 92 gives about 125 KB")
    parser.add_argument("--turns", type=int, default=3, help="of each way; the median counts")
    parser.add_argument("--json_mb", type=int, default=400, help="size of the annotation file that is streamed")
    parser.add_argument("--skip", nargs="*", choices=(SPEED, WORKERS, MEMORY), default=[])
    parser.add_argument("--folder", help="where the images are written; default: the system's")
    return parser.parse_args()


def _print(figures: dict[str, Any]) -> None:
    print(json.dumps(figures), flush=True)


def _speed(raw: Path, args: argparse.Namespace) -> dict[str, Any]:
    ways: dict[str, Callable[[Path], None]] = {
        "builder": _builder(raw),
        "tfds": _tfds(raw),
        "copy": _copy(raw),
        "checked": _copy(raw, check=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.turns + 1):
        for name, work in ways.items():
            with tempfile.TemporaryDirectory(dir=raw) as out:
                start = time.process_time()
                work(Path(out))
                # The first turn pays for imports and first uses.
                if turn:
                    seconds[name].append(time.process_time() - start)
    middle = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "images": args.images,
        "jpeg_kb": round(_mean_size(raw) / 1e3),
        "turns": args.turns,
        **{f"{name}_per_cpu_second": round(args.images / value, 1) for name, value in middle.items()},
        "of_tfds": round(middle["tfds"] / middle["builder"], 2),
        "of_copy": round(middle["copy"] / middle["builder"], 3),
        "of_checked": round(middle["checked"] / middle["builder"], 2),
    }


def _workers(folder: Path, files: list[bytes], args: argparse.Namespace) -> dict[str, Any]:
    sizes = (200, 200 + 2 * args.images)
    raws = [_raw(folder / f"workers-{count}", files, count) for count in sizes]
    beyond = {}
    for workers in (1, 2):
        os.environ["UIO2_BEAM_OPTIONS"] = f"--direct_running_mode=multi_processing --direct_num_workers={workers}"
        took = []
        for raw in raws:
            with tempfile.TemporaryDirectory(dir=raw) as out:
                start = time.monotonic()
                _builder(raw)(Path(out))
                took.append(time.monotonic() - start)
        beyond[workers] = took[1] - took[0]
    del os.environ["UIO2_BEAM_OPTIONS"]
    more = sizes[1] - sizes[0]
    rates = {f"images_per_second_{n}": round(more / seconds, 1) for n, seconds in beyond.items()}
    return {"images": more, **rates, "speedup": round(beyond[1] / beyond[2], 2), "load": round(os.getloadavg()[0], 1)}


def _builder(raw: Path) -> Callable[[Path], None]:
    from beam_jobs import coco
    from beam_jobs.specs import CocoSpec
    from uio2.pipeline.artifact import Artifact
    from uio2.pipeline.stage import StageContext

    def work(out: Path) -> None:
        (out / "out").mkdir()
        inputs = {"raw": Artifact("raw", "benchmark/raw", "1", str(raw), "")}
        context = StageContext(inputs, out / "out", out / "work", lambda *_: None, lambda *_: None)
        coco.run(CocoSpec(), context)

    return work


def _tfds(raw: Path) -> Callable[[Path], None]:
    """Pixels in, pixels encoded: how datasets are commonly written."""
    import tensorflow_datasets as tfds
    from PIL import Image

    annotations, images = _annotations(raw), raw / "images"

    class Plain(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            f = tfds.features
            objects = f.Sequence({"bbox": f.BBoxFeature(), "label": np.int64})
            features = {"image": f.Image(encoding_format="jpeg"), "captions": f.Sequence(f.Text()), "objects": objects}
            return self.dataset_info_from_configs(features=f.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for row in annotations:
                with Image.open(images / row["file_name"]) as image:
                    pixels = np.asarray(image)
                boxes = [{"bbox": tfds.features.BBox(*box), "label": 1} for box in row["boxes"]]
                yield row["id"], {"image": pixels, "captions": row["captions"], "objects": boxes}

    def work(out: Path) -> None:
        tfds.disable_progress_bar()
        Plain(data_dir=str(out)).download_and_prepare()

    return work


def _copy(raw: Path, *, check: bool = False) -> Callable[[Path], None]:
    from beam_jobs.images import check_image
    from beam_jobs.tf_example import Example
    from beam_jobs.tfrecord import write_record

    names = [row["file_name"] for row in _annotations(raw)]

    def work(out: Path) -> None:
        with open(out / "copy.tfrecord", "wb") as file:
            for name in names:
                data = (raw / "images" / name).read_bytes()
                if check:
                    check_image(data, max_pixels=50_000_000)
                write_record(file, Example(strings={"image": [data], "image/filename": [name]}).to_bytes())

    return work


def _in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns in a new process, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _build_peak(raw: Path, folder: Path) -> int:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        _builder(raw)(Path(out))
    return _peak_mb()


def _peak_mb() -> int:
    """Of this program alone; what `getrusage` says begins with the memory of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def _large_json(path: Path, *, megabytes: int) -> dict[str, Any]:
    row = {"id": 123456789, "image_id": 123456, "bbox": [1.5, 2.5, 3.5, 4.5], "segmentation": [[1.25] * 60]}
    text = json.dumps(row)
    count = megabytes * 1_000_000 // len(text)
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"images": [], "annotations": [' + text)
        for _ in range(count - 1):
            file.write("," + text)
        file.write("]}")
    before, after, seconds = _in_process(_stream_peak, path)
    size = path.stat().st_size
    path.unlink()
    rate = round(size / 1e6 / seconds)
    return {"json_mb": size // 1_000_000, "before_mb": before, "peak_mb": after, "mb_per_cpu_second": rate}


def _stream_peak(path: Path) -> tuple[int, int, float]:
    from beam_jobs.json_stream import stream

    before, start = _peak_mb(), time.process_time()
    for _ in stream(str(path), sections={"annotations"}):
        pass
    return before, _peak_mb(), time.process_time() - start


def _raw(root: Path, files: list[bytes], count: int) -> Path:
    """COCO files of `count` images, of which many are one file under several names."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    images, captions, objects, plain = [], [], [], []
    for n in range(count):
        name, first = f"{n:012d}.jpg", f"{n % len(files):012d}.jpg"
        if n < len(files):
            (root / "images" / name).write_bytes(files[n])
        else:
            os.link(root / "images" / first, root / "images" / name)
        images.append({"id": n, "file_name": name, "width": 640, "height": 480})
        texts = [" ".join(rng.choice(WORDS, 10)) for _ in range(5)]
        captions += [{"id": 5 * n + k, "image_id": n, "caption": text} for k, text in enumerate(texts)]
        boxes = rng.integers(1, 200, (7, 4)).tolist()
        outline = [[float(v) for v in range(40)]]
        objects += [
            {"id": 7 * n + k, "image_id": n, "category_id": 1, "bbox": box, "area": 5, "iscrowd": 0}
            | {"segmentation": outline}
            for k, box in enumerate(boxes)
        ]
        corners = [[y / 480, x / 640, (y + h) / 480, (x + w) / 640] for x, y, w, h in boxes]
        plain.append({"id": n, "file_name": name, "captions": texts, "boxes": corners})
    categories = [{"id": 1, "name": "thing"}]
    (root / "annotations").mkdir()
    for kind, rows in (("instances", objects), ("captions", captions)):
        value = {"images": images, "annotations": rows, "categories": categories}
        (root / "annotations" / f"{kind}_train2017.json").write_text(json.dumps(value))
    (root / "plain.json").write_text(json.dumps(plain))
    return root


def _annotations(raw: Path) -> list[dict[str, Any]]:
    return json.loads((raw / "plain.json").read_text())


def _size(raw: Path) -> int:
    return sum(path.stat().st_size for path in (raw / "annotations").iterdir()) // 1_000_000


def _mean_size(raw: Path) -> float:
    return float(np.mean([path.stat().st_size for path in (raw / "images").iterdir()]))


if __name__ == "__main__":
    main()
