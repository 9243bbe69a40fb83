"""Stage `digits-raw`: scenes of handwritten digits as raw files in COCO layout, from nothing but a package.

    images/{train,val}2017/%012d.jpg            annotations/{instances,captions}_{train,val}2017.json
    vqa/v2_OpenEnded_mscoco_{train,val}2014_questions.json, vqa/v2_mscoco_{train,val}2014_annotations.json
    refer/refcoco/refs(unc).json, instances.json
    audio/{train,validation}/%06d.wav, audio/captions_{train,validation}.csv (Clotho's columns)
    sources.jsonl                               which scanned digits each scene shows

From here on everything is the path a COCO user takes. Scene i of a split is a function of (seed, split, i), so a
larger set begins with the smaller one; the scanned digits of the two splits are disjoint. 12,500 scenes take half
a minute on one core.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs import coco_files, digit_texts, dtmf
from beam_jobs.digit_scenes import Scene, SceneStyle, compose, load_digit_images, split_sources
from beam_jobs.specs import DigitsRawSpec
from uio2.pipeline.stage import StageContext, StageError

FIRST_VALIDATION_ID = 1_000_000
PROGRESS_EVERY = 50


@dataclasses.dataclass(frozen=True)
class _Split:
    coco: str
    vqa: str
    refer: str
    audio: str
    code: int
    first_id: int
    scenes: int
    clips: int


def _splits(spec: DigitsRawSpec) -> tuple[_Split, _Split]:
    return (
        _Split("train2017", "train2014", "train", "train", 0, 1, spec.num_train, spec.num_audio_train),
        _Split(
            "val2017",
            "val2014",
            "val",
            "validation",
            1,
            FIRST_VALIDATION_ID,
            spec.num_validation,
            spec.num_audio_validation,
        ),
    )


def run(spec: DigitsRawSpec, context: StageContext) -> Mapping[str, Any]:
    """Writes the raw folder; stats hold the counts per split."""
    _check(spec)
    digits, labels = load_digit_images()
    pools = split_sources(labels, validation_fraction=spec.validation_fraction, seed=spec.seed)
    style = SceneStyle(spec.canvas, spec.sizes, spec.grid, spec.min_digits, spec.max_digits, spec.noise)
    splits = _splits(spec)
    total = sum(s.scenes + s.clips for s in splits)
    done, stats, refer = 0, {}, coco_files.ReferWriter()
    with open(_made(context.out / "sources.jsonl"), "w", encoding="utf-8") as sources:
        for split, pool in zip(splits, pools, strict=True):
            writer = coco_files.SplitWriter(split.coco, split.vqa, canvas=spec.canvas)
            for i in range(split.scenes):
                rng = np.random.default_rng([spec.seed, split.code, i])
                scene = compose(rng, images=digits, labels=labels, pool=pool, style=style)
                _write_scene(rng, scene, split.first_id + i, split, spec, writer, refer, context.out)
                shown = {
                    "image_id": split.first_id + i,
                    "split": split.coco,
                    "digits": [p.source for p in scene.objects],
                }
                sources.write(json.dumps(shown) + "\n")
                done += 1
                if done % PROGRESS_EVERY == 0:
                    context.progress(done, total, f"scenes of {split.coco}")
            stats[split.coco] = writer.write(context.out)
            stats[split.coco]["clips"] = sum(1 for _ in _write_clips(spec, split, context.out))
            done += split.clips
            context.progress(done, total, f"{split.coco} and its clips written")
    stats["refer"] = refer.write(context.out / "refer" / "refcoco")
    return stats


def _check(spec: DigitsRawSpec) -> None:
    if not 0 < spec.num_train < FIRST_VALIDATION_ID or spec.num_validation < 1:
        raise StageError(
            f"num_train = {spec.num_train}, num_validation = {spec.num_validation}: expected at least one "
            f"scene per split and fewer than {FIRST_VALIDATION_ID:,} train scenes"
        )
    if max(spec.sizes) > spec.canvas:
        raise StageError(f"sizes = {spec.sizes}: no digit may be larger than canvas = {spec.canvas}")
    if not 1 <= spec.min_digits <= spec.max_digits <= 5:
        raise StageError(
            f"min_digits = {spec.min_digits}, max_digits = {spec.max_digits}: expected 1 <= min <= max <= 5 "
            "(each digit of a scene has a colour of its own, and there are five)"
        )


def _write_scene(
    rng: np.random.Generator,
    scene: Scene,
    image_id: int,
    split: _Split,
    spec: DigitsRawSpec,
    writer: coco_files.SplitWriter,
    refer: coco_files.ReferWriter,
    out: Path,
) -> None:
    from PIL import Image

    name = f"{image_id:012d}.jpg"
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "JPEG", quality=spec.jpeg_quality, subsampling=0)
    _made(out / "images" / split.coco / name).write_bytes(buffer.getvalue())
    objects = scene.objects
    boxes = [(p.left, p.top, p.size, p.size) for p in objects]
    annotations = writer.add(
        image_id,
        name,
        boxes=boxes,
        classes=[p.digit for p in objects],
        captions=digit_texts.captions(objects),
        questions=digit_texts.questions(rng, objects, number=spec.questions_per_image),
    )
    spoken = [digit_texts.expressions(rng, p, [o for o in objects if o is not p]) for p in objects]
    refer.add(writer.images[-1], annotations, spoken, split=split.refer)


def _write_clips(spec: DigitsRawSpec, split: _Split, out: Path) -> Iterator[Path]:
    rows = []
    for i in range(split.clips):
        rng = np.random.default_rng([spec.seed, 2 + split.code, i])
        keys = dtmf.random_keys(rng)
        path = _made(out / "audio" / split.audio / f"{i:06d}.wav")
        path.write_bytes(dtmf.wav_bytes(dtmf.dial(rng, keys)))
        rows.append([path.name, *dtmf.captions(keys)])
        yield path
    if rows:
        with open(out / "audio" / f"captions_{split.audio}.csv", "w", encoding="utf-8", newline="") as f:
            table = csv.writer(f, lineterminator="\n")
            table.writerow(["file_name", *(f"caption_{k + 1}" for k in range(len(rows[0]) - 1))])
            table.writerows(rows)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
