"""Small datasets in TFDS layout, as the build stages publish them, made from scenes of digits."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from beam_jobs import digit_scenes

F = tfds.features
CLASSES = [str(d) for d in range(10)]
INK = 90
COCO = F.FeaturesDict({
    "image": F.Image(encoding_format="jpeg"), "image/filename": F.Text(), "image/id": np.int64,
    "captions": {"num": np.int32, "id": F.Sequence(np.int64), "text": F.Sequence(F.Text())},
    "vqa": {"num": np.int32, "id": F.Sequence(np.int64), "questions": F.Sequence(F.Text()),
            "answers": F.Sequence(F.Tensor(shape=(10,), dtype=np.str_))},
    "objects": F.Sequence({"area": np.int64, "bbox": F.BBoxFeature(), "id": np.int64, "is_crowd": np.bool_,
                           "label": F.ClassLabel(names=CLASSES), "keypoints": F.Tensor(shape=(17, 3), dtype=np.float32),
                           "num_keypoints": np.int64, "mask": F.Tensor(shape=(), dtype=np.str_)}),
})  # fmt: skip
REFCOCO = F.FeaturesDict({
    "image": F.Image(encoding_format="jpeg"), "image/id": np.int64,
    "objects": F.Sequence({"area": np.int64, "bbox": F.BBoxFeature(), "id": np.int64, "label": np.int64,
                           "refexp": F.Sequence({"refexp_id": np.int64, "raw": F.Text()})}),
})  # fmt: skip


def draw(count: int, seed: int) -> Iterator[digit_scenes.Scene]:
    """So many scenes of digits."""
    images, labels = digit_scenes.load_digit_images()
    rng, style = np.random.default_rng(seed), digit_scenes.SceneStyle()
    for _ in range(count):
        yield digit_scenes.compose(rng, images=images, labels=labels, pool=np.arange(len(labels)), style=style)


def box_of(p: digit_scenes.Placed, side: int) -> F.BBox:
    """A digit's box in 0..1 of a square scene."""
    return F.BBox(p.top / side, p.left / side, (p.top + p.size) / side, (p.left + p.size) / side)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file of uint8 [h, w, 3], uint8 [h, w] or uint16 [h, w]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=95)
    return buffer.getvalue()


def mask_of(p: digit_scenes.Placed, image: np.ndarray) -> np.ndarray:
    """bool [h, w]: the pixels of a digit's ink."""
    inside = np.zeros(image.shape[:2], bool)
    inside[p.top : p.top + p.size, p.left : p.left + p.size] = True
    return inside & (image.max(axis=-1) > INK)


def keypoints_of(mask: np.ndarray) -> np.ndarray:
    """float32 [17, 3]: x, y, visibility of points spread over a mask; every fourth is not annotated."""
    rows, columns = np.nonzero(mask)
    chosen = np.linspace(0, len(rows) - 1, 17).astype(int)
    points = np.stack([columns[chosen], rows[chosen], 1 + np.arange(17) % 2], axis=1).astype(np.float32)
    points[::4] = 0
    return points


def _coco(number: int, scene, jpeg: bytes) -> dict:
    """Every fifth record has no captions, every fifth (another) no questions and no usable object.

    The second object of a record is a crowd, the third has no keypoints and no mask.
    """
    side, objects, bare = scene.image.shape[0], scene.objects, number % 5 == 4
    words = " and ".join(f"a {p.colour} {p.digit}" for p in objects)
    captions = [] if number % 5 == 3 else [f"{words}, version {n}" for n in range(3)]
    questions = [] if bare else [f"What is the colour of the {p.digit}?" for p in objects]
    answers = [] if bare else [[p.colour.upper()] * 9 + ["dark"] for p in objects]
    boxes = []
    for n, p in enumerate(objects):
        mask = mask_of(p, scene.image)
        points = np.zeros((17, 3), np.float32) if n == 2 else keypoints_of(mask)
        boxes.append({"area": p.size**2, "bbox": box_of(p, side),
                      "id": 100 * number + n, "is_crowd": bare or n == 1, "label": p.digit, "keypoints": points,
                      "num_keypoints": int((points[:, 2] > 0).sum()),
                      "mask": b"" if n == 2 else encoded(mask.astype(np.uint8) * 255)})  # fmt: skip
    return {
        "image": jpeg, "image/filename": f"{number}.jpg", "image/id": number,
        "captions": {"num": len(captions), "id": list(range(len(captions))), "text": captions},
        "vqa": {"num": len(questions), "id": [10 * number + n for n in range(len(questions))], "questions": questions,
                "answers": answers},
        "objects": boxes,
    }  # fmt: skip


def _refcoco(number: int, scene, jpeg: bytes) -> dict:
    side, objects = scene.image.shape[0], []
    for n, p in enumerate(scene.objects):
        box = box_of(p, side)
        texts = [f"The {p.colour} digit", f"number {p.digit}"][: 1 + n % 2]
        refexp = [{"refexp_id": 100 * number + 10 * n + k, "raw": t} for k, t in enumerate(texts)]
        objects.append({"area": p.size**2, "bbox": box, "id": n, "label": p.digit, "refexp": refexp})
    return {"image": jpeg, "image/id": number, "objects": objects}


def write(folder: Path, name: str, features: F.FeaturesDict, splits: dict[str, list[dict]], *, shards: int = 2) -> Path:
    """Writes `<folder>/<name>/1.0.0` and returns it."""
    out = folder / name / "1.0.0"
    out.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(data_dir=out, dataset_name=name, filetype_suffix="tfrecord",
                                             template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")  # fmt: skip
    infos = []
    for split, rows in splits.items():
        lengths, size = [], 0
        for shard in range(shards):
            path = out / f"{name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"
            mine = [features.serialize_example(features.encode_example(row)) for row in rows[shard::shards]]
            with tf.io.TFRecordWriter(str(path)) as writer:
                for data in mine:
                    writer.write(data)
            lengths.append(len(mine))
            size += sum(map(len, mine))
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template))
    tfds.folder_dataset.write_metadata(data_dir=out, features=features, split_infos=infos, filename_template=template,
                                       check_data=False)  # fmt: skip
    return out


def build(folder: Path, *, train: int = 30, validation: int = 12) -> dict[str, Path]:
    """Both datasets; returns their directories by input name."""
    rows: dict[str, dict[str, list[dict]]] = {"coco": {}, "refcoco": {}}
    for seed, (split, count) in enumerate((("train", train), ("validation", validation))):
        for number, scene in enumerate(draw(count, seed)):
            jpeg = encoded(scene.image, "JPEG")
            for key, row in (("coco", _coco), ("refcoco", _refcoco)):
                rows[key].setdefault(split, []).append(row(1000 * seed + number, scene, jpeg))
    return {
        "coco": write(folder, "coco_all", COCO, rows["coco"]),
        "refcoco": write(folder, "ref_coco", REFCOCO, rows["refcoco"]),
    }


def bare_rows(count: int) -> list[dict]:
    """Records of `coco_all` with a caption and nothing else."""
    jpeg = encoded(np.zeros((32, 32, 3), np.uint8), "JPEG")
    return [
        {"image": jpeg, "image/filename": f"{n}.jpg", "image/id": n,
         "captions": {"num": 1, "id": [n], "text": ["dark"]},
         "vqa": {"num": 0, "id": [], "questions": [], "answers": []}, "objects": []}
        for n in range(count)
    ]  # fmt: skip
