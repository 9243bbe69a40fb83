"""The embedded default: from handwritten digits to an evaluated, registered model.

Composes scenes of digits in genuine COCO layout, builds datasets with Beam, trains a tokenizer and a small Unified-IO 2
from scratch on captioning, VQA, box classification and referring expressions, and scores it against baselines.

Reproduces: no paper; the whole path of Unified-IO 2 at the size of two CPU cores.
Cost: under 15 minutes on two cores. Score: exact match of VQA and box classification 0.80, refexp acc@0.5 about 0.5.
Run: uio2 run digits
"""

from __future__ import annotations

from collections.abc import Mapping

from beam_jobs.specs import BUILD_AUDIO, BUILD_COCO, BUILD_REFCOCO, DIGITS_RAW
from uio2.evaluate.specs import PREDICT, PROMOTE, REPORT, SCORE
from uio2.pipeline.gin_config import GinConfig
from uio2.pipeline.stage import Pipeline, Source, Stage, StageType
from uio2.tasks.specs import REGISTER, TRAIN_TOKENIZER
from uio2.train.specs import TRAIN, VISION_TOWER


def build(config: GinConfig, sources: Mapping[str, Source]) -> Pipeline:
    """The pipeline with its specs from `config`; it takes no sources."""

    def stage(name: str, kind: StageType, **inputs: Stage) -> Stage:
        return Stage(name, kind, config.spec(kind.spec), inputs)

    raw = stage("raw", DIGITS_RAW)
    coco = stage("build-coco", BUILD_COCO, raw=raw)
    refcoco = stage("build-refcoco", BUILD_REFCOCO, raw=raw)
    audio = stage("build-audio", BUILD_AUDIO, raw=raw)
    tokenizer = stage("tokenizer", TRAIN_TOKENIZER, coco=coco, refcoco=refcoco, audio=audio)
    mixture = stage("register", REGISTER, coco=coco, refcoco=refcoco, tokenizer=tokenizer)
    vision = stage("vision-tower", VISION_TOWER, coco=coco)
    data = {"coco": coco, "refcoco": refcoco}
    train = stage("train", TRAIN, mixture=mixture, tokenizer=tokenizer, vision=vision, **data)
    predict = stage("predict", PREDICT, checkpoint=train, mixture=mixture, tokenizer=tokenizer, **data)
    score = stage("score", SCORE, predictions=predict, **data)
    report = stage("report", REPORT, score=score, predictions=predict, train=train, **data)
    promote = stage("promote", PROMOTE, train=train, score=score)
    stages = (raw, coco, refcoco, audio, tokenizer, mixture, vision, train, predict, score, report, promote)
    return Pipeline("digits", stages)
