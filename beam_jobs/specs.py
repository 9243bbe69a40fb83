"""Recipes of the dataset stages: what a user may set, with every default in one place.

Light on purpose: the CLI, the planner and gin import this module, so it imports nothing heavy. Output never
depends on `runner_options`-like matters (how many workers ran); those stay out of the fingerprint by living in
the environment variable `UIO2_BEAM_OPTIONS`, read by `beam_jobs.runner`.
"""

from __future__ import annotations

import dataclasses

from uio2.pipeline.stage import StageType


@dataclasses.dataclass(frozen=True)
class DigitsRawSpec:
    """Raw files of the embedded default: handwritten digits on a small canvas, in COCO layout.

    Attributes:
      num_train, num_validation: scenes per split.
      canvas: side of the square image in pixels.
      sizes: sides a digit may have, pixels.
      grid: corners are multiples of this, pixels.
      min_digits, max_digits: digits per scene.
      noise: standard deviation of the background noise, 0..255.
      questions_per_image: VQA questions per scene, out of four kinds.
      validation_fraction: share of the source digit images kept for validation scenes alone.
      num_audio_train, num_audio_validation: DTMF clips per split.
      jpeg_quality: Pillow's quality, no chroma subsampling.
      seed: the only source of randomness; scene i of a split depends on (seed, split, i) alone.
    """

    num_train: int = 12_000
    num_validation: int = 500
    canvas: int = 96
    sizes: tuple[int, ...] = (28, 32, 36)
    grid: int = 4
    min_digits: int = 1
    max_digits: int = 3
    noise: float = 6.0
    questions_per_image: int = 3
    validation_fraction: float = 0.15
    num_audio_train: int = 400
    num_audio_validation: int = 80
    jpeg_quality: int = 92
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class ImportSpec:
    """Folders of the user's, taken as they are: listed and hashed, never copied.

    Attributes:
      image_suffixes: which files of the `images` folder count (annotation files may lie below the same folder).
    """

    image_suffixes: tuple[str, ...] = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class CocoSpec:
    """The `coco_all` dataset: images with captions, VQA v2 questions and boxes.

    Attributes:
      num_shards: TFRecord files per split; fewer than 1 is an error.
      max_dropped_fraction: above this share of dropped records, of any kind, the build fails.
      limit: keep only this many images per split (the first by hashed key, so a random sample); None keeps all.
      max_pixels: images with more pixels than this are refused as decompression bombs.
      version: the dataset's TFDS version.
    """

    num_shards: int = 8
    max_dropped_fraction: float = 0.01
    limit: int | None = None
    max_pixels: int = 50_000_000
    version: str = "1.0.0"


@dataclasses.dataclass(frozen=True)
class RefCocoSpec:
    """The `ref_coco` dataset: images with referring expressions.

    Attributes:
      dataset: folder below the `refer` root; "" takes the first of `refcoco`, `refcoco+`, `refcocog` that is there.
      split_by: which `refs(SPLIT_BY)` file; "" takes the first of `unc`, `umd`, `google` that is there.
      num_shards, max_dropped_fraction, limit, max_pixels, version: as for `CocoSpec`.
    """

    dataset: str = ""
    split_by: str = ""
    num_shards: int = 8
    max_dropped_fraction: float = 0.01
    limit: int | None = None
    max_pixels: int = 50_000_000
    version: str = "1.0.0"


@dataclasses.dataclass(frozen=True)
class AudioCaptionsSpec:
    """The `audio_captions` dataset: WAV clips with captions.

    Attributes:
      max_seconds: longer clips are dropped.
      num_shards, max_dropped_fraction, limit, version: as for `CocoSpec`.
    """

    max_seconds: float = 600.0
    num_shards: int = 1
    max_dropped_fraction: float = 0.01
    limit: int | None = None
    version: str = "1.0.0"


DIGITS_RAW = StageType(name="digits-raw", kind="raw", spec=DigitsRawSpec, run="beam_jobs.digits_raw:run")
IMPORT_RAW = StageType(
    name="import", kind="raw", spec=ImportSpec, run="beam_jobs.import_raw:run", volatile=("roots.json",)
)
BUILD_COCO = StageType(name="build-coco", kind="dataset", spec=CocoSpec, run="beam_jobs.coco:run")
BUILD_REFCOCO = StageType(name="build-refcoco", kind="dataset", spec=RefCocoSpec, run="beam_jobs.refcoco:run")
BUILD_AUDIO = StageType(name="build-audio", kind="dataset", spec=AudioCaptionsSpec, run="beam_jobs.audio_captions:run")
