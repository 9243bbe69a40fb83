"""A small world to evaluate in: real digit scenes in two TFDS datasets, predictions of a model that errs at will."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np

from beam_jobs.digit_scenes import Scene, SceneStyle, compose, load_digit_images, split_sources
from uio2.evaluate.predictions import Header, Prediction, write_index, write_shard
from uio2.pipeline.artifact import Artifact, digest_directory
from uio2.pipeline.stage import StageContext
from uio2.tasks.locations import values_to_text

CANVAS = 96
INFO = (0.0, 0.0, 1.0, 96.0, 96.0, 0.0, 0.0, 0.0, 0.0, 96.0, 96.0)
TASKS = ("vqa_coco_2017", "box_classification_coco_2017", "refcoco_unc", "image_caption_coco_2017")


def scenes(*, number: int, seed: int, validation: bool) -> list[Scene]:
    """Scenes whose digits come from one half of the scans."""
    images, labels = load_digit_images()
    train, held_out = split_sources(labels, validation_fraction=0.2, seed=0)
    rng = np.random.default_rng(seed)
    pool = held_out if validation else train
    return [compose(rng, images=images, labels=labels, pool=pool, style=SceneStyle()) for _ in range(number)]


def artifact(path: Path, *, kind: str, name: str, **stats) -> Artifact:
    """The folder as an input of a stage."""
    return Artifact(kind, name, "1", str(path), digest_directory(path), stats=stats)


def context(folder: Path, **inputs: Artifact) -> StageContext:
    """What the runner would hand to a stage; progress and metrics are kept nowhere."""
    (folder / "out").mkdir(parents=True)
    (folder / "work").mkdir()
    return StageContext(inputs, folder / "out", folder / "work", lambda *_: None, lambda *_: None)


def _jpeg(scene: Scene) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _box(o) -> list[float]:
    return [o.top / CANVAS, o.left / CANVAS, (o.top + o.size) / CANVAS, (o.left + o.size) / CANVAS]


def captions(scene: Scene) -> list[str]:
    """Two ways of saying what is there."""
    parts = [f"a {o.colour} {o.digit}" for o in scene.objects]
    return [" and ".join(parts), " beside ".join(reversed(parts))]


def build_datasets(folder: Path, *, train: list[Scene], validation: list[Scene]) -> dict[str, Artifact]:
    """`coco` and `refcoco` as TFDS directories with both splits."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    box = {"bbox": tfds.features.BBoxFeature(), "id": tf.int64}
    label = tfds.features.ClassLabel(names=[str(d) for d in range(10)])
    common = {"image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"), "image/id": tf.int64}
    coco = tfds.features.FeaturesDict({
        **common,
        "captions": {"text": tfds.features.Sequence(tfds.features.Text())},
        "vqa": {
            "id": tfds.features.Sequence(np.int64),
            "questions": tfds.features.Sequence(tfds.features.Text()),
            "answers": tfds.features.Sequence(tfds.features.Tensor(shape=(10,), dtype=np.str_)),
        },
        "objects": tfds.features.Sequence({**box, "is_crowd": np.bool_, "label": label}),
    })  # fmt: skip
    expressions = tfds.features.Sequence({"refexp_id": np.int64, "raw": tfds.features.Text()})
    refcoco = tfds.features.FeaturesDict({
        **common,
        "objects": tfds.features.Sequence({**box, "label": label, "refexp": expressions}),
    })  # fmt: skip

    def coco_row(i: int, scene: Scene) -> dict:
        objects = [
            {"bbox": _tfds_box(o), "id": n, "is_crowd": False, "label": o.digit} for n, o in enumerate(scene.objects)
        ]
        answers = [[str(len(scene.objects))] * 10]
        questions = {"id": [i], "questions": ["how many digits are there?"], "answers": answers}
        return {"image": _jpeg(scene), "image/id": i, "captions": {"text": captions(scene)}, "vqa": questions,
                "objects": objects}  # fmt: skip

    def refcoco_row(i: int, scene: Scene) -> dict:
        objects = [
            {
                "bbox": _tfds_box(o),
                "id": n,
                "label": o.digit,
                "refexp": [{"refexp_id": 10 * i + n, "raw": f"the {o.colour} digit"}],
            }
            for n, o in enumerate(scene.objects)
        ]
        return {"image": _jpeg(scene), "image/id": i, "objects": objects}

    def _tfds_box(o):
        return tfds.features.BBox(*_box(o))

    splits = {"train": train, "validation": validation}
    out = {}
    for name, features, row in (("coco_all", coco, coco_row), ("ref_coco", refcoco, refcoco_row)):
        path = folder / name
        _write(path, name=name, features=features, rows={
            split: [row(i + 1000 * (split == "train"), s) for i, s in enumerate(found)]
            for split, found in splits.items()
        })  # fmt: skip
        key = "coco" if name == "coco_all" else "refcoco"
        out[key] = artifact(folder, kind="dataset", name=f"digits/{key}", tfds_dir=name)
    return out


def _write(path: Path, *, name: str, features, rows: dict[str, list[dict]]) -> None:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    path.mkdir(parents=True)
    infos = []
    for split, examples in rows.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=path, dataset_name=name, split=split, filetype_suffix="tfrecord"
        )
        file = f"{name}-{split}.tfrecord-00000-of-00001"
        records = [features.serialize_example(features.encode_example(example)) for example in examples]
        with tf.io.TFRecordWriter(str(path / file)) as writer:
            for record in records:
                writer.write(record)
        infos.append(tfds.core.SplitInfo(
            name=split, shard_lengths=[len(records)], num_bytes=sum(map(len, records)), filename_template=template
        ))  # fmt: skip
    tfds.folder_dataset.write_metadata(
        data_dir=path, features=features, split_infos=infos, version="1.0.0", check_data=False
    )
    # `write_metadata` takes the name from the folders above; ours is the folder itself.
    info = json.loads((path / "dataset_info.json").read_text())
    info["name"] = name
    (path / "dataset_info.json").write_text(json.dumps(info))


def rows_of(task: str, *, found: list[Scene], skill: float, seed: int = 0) -> list[Prediction]:
    """One row per scene, right with probability `skill`."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, scene in enumerate(found):
        o = scene.objects[int(rng.integers(len(scene.objects)))]
        right = rng.random() < skill
        question, true_box, targets, text = "", None, (), ""
        box = [v * CANVAS for v in _box(o)]
        if task == "vqa_coco_2017":
            question = ("how many digits are there?", f"what digit is {o.colour}?")[i % 2]
            answer = (str(len(scene.objects)), str(o.digit))[i % 2]
            targets, text = (answer,) * 10, answer if right else str((int(answer) + 1) % 10)
        elif task == "box_classification_coco_2017":
            true_box, targets = tuple(box), (str(o.digit),)
            text = str(o.digit) if right else str((o.digit + int(rng.integers(1, 3))) % 10)
        elif task == "refcoco_unc":
            question, true_box = f"the {o.colour} digit", tuple(box)
            noise = rng.normal(0, 0.01 if right else 0.2, 4)
            text = values_to_text(np.clip(np.array(_box(o)) + noise, 0, 1))
            targets = (values_to_text(_box(o)),)
        else:
            targets = tuple(captions(scene))
            text = targets[0] if right else f"a {o.colour} {o.digit} and more"
        rows.append(Prediction(
            example_id=f"{i}-{o.source}", index=i, task=task, prompt=f"[Text] [S] {question or 'Tell me.'}", text=text,
            tokens=tuple(range(5, 8)), logprob=round(float(-rng.random()), 5), targets=targets, image_id=i,
            image_info=INFO, true_box=true_box, question=question,
        ))  # fmt: skip
    return rows


def write_predictions(
    folder: Path, *, rows: dict[str, list[Prediction]], shards: int = 2, checkpoint: str = "c" * 64
) -> Artifact:
    """A complete set of prediction files."""
    tasks = {}
    for task, found in rows.items():
        cuts = np.linspace(0, len(found), shards + 1).astype(int)
        for shard in range(shards):
            part = found[cuts[shard] : cuts[shard + 1]]
            header = Header(
                task=task, split="validation", shard=shard, num_shards=shards, rows=len(part),
                first_index=int(cuts[shard]), decoding={"method": "greedy", "max_length": 32}, checkpoint=checkpoint,
                tokenizer="d" * 64, input_size=(CANVAS, CANVAS),
            )  # fmt: skip
            write_shard(folder, header=header, rows=part)
        tasks[task] = {"rows": len(found), "shards": shards}
    write_index(folder, tasks=tasks)
    return artifact(folder, kind="predictions", name="digits/predict")


def tokenizer(folder: Path) -> Artifact:
    """A small SentencePiece model as the tokenizer stage publishes it."""
    import sentencepiece

    out = io.BytesIO()
    lines = ["how many digits are there?", "a red digit and a blue digit", "what is the white yellow green one"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=320, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(out.getvalue())
    return artifact(folder, kind="tokenizer", name="digits/tokenizer")


def write_checkpoint(folder: Path, *, steps: int = 600) -> Artifact:
    """A checkpoint folder as far as the report reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for step in range(10, steps + 1, 10):
        loss = 3 * np.exp(-step / 200) + 0.4 + rng.normal(0, 0.05)
        lines.append({"step": step, "loss": round(float(loss), 5), "learning_rate": 1e-3})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return artifact(folder, kind="checkpoint", name="digits/train")


@dataclasses.dataclass(frozen=True)
class World:
    """Datasets, predictions and a checkpoint that fit together."""

    validation: list[Scene]
    inputs: dict[str, Artifact]


def build_world(folder: Path, *, train: int, validation: int, skill: float) -> World:
    """All of the above."""
    held_out = scenes(number=validation, seed=2, validation=True)
    inputs = build_datasets(folder / "data", train=scenes(number=train, seed=1, validation=False), validation=held_out)
    rows = {task: rows_of(task, found=held_out, skill=skill) for task in TASKS}
    inputs["predictions"] = write_predictions(folder / "predictions", rows=rows)
    inputs["train"] = write_checkpoint(folder / "train")
    return World(held_out, inputs)
