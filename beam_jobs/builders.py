"""The datasets that `uio2 build NAME` makes, by name: which stage, from which sources. Light, as `specs.py` is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from beam_jobs import specs
from uio2.pipeline.stage import StageType


@dataclasses.dataclass(frozen=True)
class Builder:
    """How a dataset is made.

    Attributes:
      type: the stage.
      required, optional: sources by role (`beam_jobs.sources.ROLES`), each a folder or a file of the user's.
      settings: fields of the spec that make it this dataset, where the configuration does not say otherwise.
    """

    type: StageType
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _text(dataset: str) -> Builder:
    return Builder(specs.BUILD_INSTRUCTIONS, ("text",), settings={"dataset": dataset})


def _refcoco(dataset: str, split_by: str) -> Builder:
    return Builder(specs.BUILD_REFCOCO, ("images", "refer"), settings={"dataset": dataset, "split_by": split_by})


BUILDERS = {
    "coco": Builder(specs.BUILD_COCO, ("images", "annotations"), ("vqa",)),
    "coco-panoptic": Builder(specs.BUILD_COCO_PANOPTIC, ("images", "annotations")),
    "refcoco": _refcoco("refcoco", "unc"),
    "refcoco-plus": _refcoco("refcoco+", "unc"),
    "refcocog": _refcoco("refcocog", "google"),
    "visual-genome": Builder(specs.BUILD_VISUAL_GENOME, ("images", "annotations")),
    "image-text": Builder(specs.BUILD_IMAGE_TEXT, ("images",), ("annotations",)),
    "vqa-options": Builder(specs.BUILD_VQA_OPTIONS, ("images", "annotations")),
    "image-depth": Builder(specs.BUILD_IMAGE_PAIRS, ("images", "depth"), settings={"target": "depth"}),
    "image-normals": Builder(specs.BUILD_IMAGE_PAIRS, ("images", "normals"), settings={"target": "normals"}),
    "audio": Builder(specs.BUILD_AUDIO, ("audio",), ("annotations",)),
    "audio-tags": Builder(specs.BUILD_AUDIO_TAGS, ("audio",), ("annotations",)),
    "speech": Builder(specs.BUILD_SPEECH, ("audio",), ("annotations",)),
    "video": Builder(specs.BUILD_VIDEO, ("video",), ("annotations",)),
    "alpaca": _text("alpaca"),
    "dolly": _text("dolly"),
    "flan2021": _text("flan2_flan2021"),
    "flan-t0": _text("flan2_t0"),
    "flan-niv2": _text("flan2_niv2"),
    "flan-cot": _text("flan2_cot"),
    "flan-dialog": _text("flan2_dialog"),
}
ROLES = tuple(dict.fromkeys(role for b in BUILDERS.values() for role in (*b.required, *b.optional)))
