"""A genuine COCO folder: build the datasets, train the small model a few steps, predict, score, report, promote.

The same stages as `flows.digits`, on files of the user's. Without --vqa or --refer the tasks that need them are left
out. Where the images lie does not matter to what is made: only their content does.

Reproduces: nothing yet at this size; it shows that a user's own COCO goes the whole way.
Cost: minutes for a few dozen images; the build reads about 300 images a second and core. Score: near the baselines.
Run: uio2 run coco --images train2017 --annotations annotations [--vqa DIR] [--refer DIR]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from beam_jobs.specs import BUILD_COCO, BUILD_REFCOCO, IMPORT_RAW
from uio2.evaluate.specs import PREDICT, PROMOTE, REPORT, SCORE
from uio2.pipeline.gin_config import GinConfig
from uio2.pipeline.stage import Pipeline, Source, Stage, StageType
from uio2.tasks.specs import REGISTER, TRAIN_TOKENIZER
from uio2.train.specs import TRAIN, VISION_TOWER

NEEDS = {"vqa_coco_2017": "vqa", "refcoco_unc": "refer"}  # tasks that only exist with that source


def build(config: GinConfig, sources: Mapping[str, Source]) -> Pipeline:
    """The pipeline over the sources `images`, `annotations` and, if given, `vqa` and `refer`."""

    def stage(name: str, kind: StageType, **inputs: Stage | Source) -> Stage:
        return Stage(name, kind, config.spec(kind.spec), inputs)

    raw = stage("raw", IMPORT_RAW, **sources)
    coco = stage("build-coco", BUILD_COCO, raw=raw)
    data = {"coco": coco}
    if "refer" in sources:
        data["refcoco"] = stage("build-refcoco", BUILD_REFCOCO, raw=raw)
    tokenizer = stage("tokenizer", TRAIN_TOKENIZER, **data)
    mixture = stage("register", REGISTER, tokenizer=tokenizer, **data)
    rates = {task: rate for task, rate in mixture.spec.rates.items() if NEEDS.get(task, "images") in sources}
    mixture = dataclasses.replace(mixture, spec=dataclasses.replace(mixture.spec, rates=rates))
    vision = stage("vision-tower", VISION_TOWER, coco=coco)
    train = stage("train", TRAIN, mixture=mixture, tokenizer=tokenizer, vision=vision, **data)
    predict = stage("predict", PREDICT, checkpoint=train, mixture=mixture, tokenizer=tokenizer, **data)
    score = stage("score", SCORE, predictions=predict, **data)
    report = stage("report", REPORT, score=score, predictions=predict, train=train, **data)
    promote = stage("promote", PROMOTE, train=train, score=score)
    stages = (raw, *data.values(), tokenizer, mixture, vision, train, predict, score, report, promote)
    return Pipeline("coco", stages)
