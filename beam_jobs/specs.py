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
class ImportFilesSpec:
    """Files or folders of the user's for one dataset, taken as they are: every file is listed and hashed.

    Attributes:
      hidden: whether files and folders whose names begin with a dot count.
    """

    hidden: bool = False


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What every dataset has.

    Attributes:
      num_shards: TFRecord files per split; fewer than 1 is an error.
      max_dropped_fraction: above this share of dropped records, of any kind, the build fails.
      limit: keep only this many records per split (the first by hashed key, so a random sample); None keeps all.
      version: the dataset's TFDS version.
      duplicates: what a key or an id that comes twice is: `drop`, a dead letter (the first one stays), or `error`.
      dead_letter_bytes: keep the bytes of dropped files too, below `dead_letters/bytes/`.
      max_leaked_fraction: above this share of a split's records that `train` has too (the same content, a look-alike
        or the same key) the build fails; None only reports them.
      quality: `full`, or `counts`: a report without look-alikes, for which each picture must be decoded once more.
    """

    num_shards: int = 1
    max_dropped_fraction: float = 0.01
    limit: int | None = None
    version: str = "1.0.0"
    duplicates: str = "drop"
    dead_letter_bytes: bool = False
    max_leaked_fraction: float | None = None
    quality: str = "full"


@dataclasses.dataclass(frozen=True)
class ImageDatasetSpec(DatasetSpec):
    """What every dataset of images has.

    Attributes:
      max_pixels: images with more pixels than this are refused as decompression bombs.
      max_side: images with a longer side above this are scaled down to it and stored as JPEG; what is said about
        them in pixels follows. None keeps every file's bytes.
    """

    max_pixels: int = 50_000_000
    max_side: int | None = None


@dataclasses.dataclass(frozen=True)
class CocoSpec(ImageDatasetSpec):
    """The `coco_all` dataset: images with captions, VQA v2 questions, boxes, keypoints and masks.

    Attributes:
      masks: store a mask picture per object; without, the field is there and empty.
    """

    masks: bool = False
    num_shards: int = 8


@dataclasses.dataclass(frozen=True)
class CocoPanopticSpec(DatasetSpec):
    """The `coco_panoptic` dataset: COCO images with maps of their panoptic segments.

    Attributes:
      max_pixels: images with more pixels than this are refused as decompression bombs.
    """

    num_shards: int = 8
    max_pixels: int = 50_000_000


@dataclasses.dataclass(frozen=True)
class RefCocoSpec(ImageDatasetSpec):
    """The `ref_coco` dataset: images with referring expressions.

    Attributes:
      dataset: folder below the `refer` root; "" takes the first of `refcoco`, `refcoco+`, `refcocog` that is there.
      split_by: which `refs(SPLIT_BY)` file; "" takes the first of `unc`, `umd`, `google` that is there.
    """

    dataset: str = ""
    split_by: str = ""
    num_shards: int = 8


@dataclasses.dataclass(frozen=True)
class AudioCaptionsSpec(DatasetSpec):
    """The `audio_captions` dataset: sound clips with captions.

    Attributes:
      max_seconds: longer clips are dropped.
    """

    max_seconds: float = 600.0


@dataclasses.dataclass(frozen=True)
class TableSpec(DatasetSpec):
    """What all datasets have that are made of tables or folders of the user's.

    Attributes:
      validation_fraction: share of the records, by hashed key, that become `validation` where neither a file's name
        nor its rows say the split; the rest is `train`.
    """

    validation_fraction: float = 0.05


@dataclasses.dataclass(frozen=True)
class InstructionsSpec(TableSpec):
    """Instructions with responses: Alpaca, Dolly, FLAN and their like.

    Attributes:
      dataset: its name: `alpaca`, `dolly`, `flan2_flan2021`, ...; of a table that names sub-mixtures of FLAN, only
        the rows of this one are taken.
    """

    dataset: str = "alpaca"


@dataclasses.dataclass(frozen=True)
class AudioTagsSpec(TableSpec):
    """The `audio_tags` dataset: sound clips with labels.

    Attributes:
      max_seconds: longer clips are dropped.
      validation_folds: folds of ESC-50 that become `validation`.
    """

    max_seconds: float = 600.0
    validation_folds: tuple[int, ...] = (5,)


@dataclasses.dataclass(frozen=True)
class SpeechSpec(TableSpec):
    """The `speech` dataset: recordings with transcripts.

    Attributes:
      max_seconds: longer recordings are dropped.
    """

    max_seconds: float = 600.0


@dataclasses.dataclass(frozen=True)
class VideoSpec(TableSpec):
    """The `video_captions` dataset: clips as a few frames and their sound.

    Attributes:
      num_frames: frames kept of a clip, from the middles of that many equal parts; a clip of fewer keeps all.
      max_side: larger frames are scaled down to this longer side, pixels.
      frame_rate: frames a second of folders of images whose row does not say `fps` or `seconds`.
      jpeg_quality: Pillow's quality, for frames that are not JPEG already or are scaled.
      max_seconds: longer clips are dropped.
      max_pixels: frames with more pixels than this are refused.
    """

    num_frames: int = 8
    max_side: int = 512
    frame_rate: float = 25.0
    jpeg_quality: int = 92
    max_seconds: float = 600.0
    max_pixels: int = 50_000_000


@dataclasses.dataclass(frozen=True)
class ImageTextSpec(ImageDatasetSpec, TableSpec):
    """The `image_text` dataset: images with texts or tags."""


@dataclasses.dataclass(frozen=True)
class VisualGenomeSpec(ImageDatasetSpec, TableSpec):
    """The `visual_genome` dataset: images with described regions."""

    num_shards: int = 8


@dataclasses.dataclass(frozen=True)
class VqaOptionsSpec(ImageDatasetSpec, TableSpec):
    """The `vqa_options` dataset: images with questions and answer options."""


@dataclasses.dataclass(frozen=True)
class ImagePairsSpec(ImageDatasetSpec, TableSpec):
    """The `image_depth` or `image_normals` dataset: images with a map of the same size.

    Attributes:
      target: `depth` or `normals`.
      millimetres: what one unit of a stored depth map is (1 for most sensors, 1000 / 256 for KITTI's); 1000 for
        maps of floating-point metres is taken by itself.
    """

    target: str = "depth"
    millimetres: float = 1.0


DIGITS_RAW = StageType(name="digits-raw", kind="raw", spec=DigitsRawSpec, run="beam_jobs.digits_raw:run")
IMPORT_RAW = StageType(
    name="import",
    kind="raw",
    spec=ImportSpec,
    run="beam_jobs.import_raw:run",
    code_version="2",
    volatile=("roots.json",),
)
IMPORT_FILES = StageType(
    name="import-files",
    kind="raw",
    spec=ImportFilesSpec,
    run="beam_jobs.import_raw:run_files",
    volatile=("roots.json",),
)
BUILD_COCO = StageType(name="build-coco", kind="dataset", spec=CocoSpec, run="beam_jobs.coco:run", code_version="3")
BUILD_COCO_PANOPTIC = StageType(
    name="build-coco-panoptic", kind="dataset", spec=CocoPanopticSpec, run="beam_jobs.coco_panoptic:run"
)
BUILD_REFCOCO = StageType(
    name="build-refcoco", kind="dataset", spec=RefCocoSpec, run="beam_jobs.refcoco:run", code_version="2"
)
BUILD_AUDIO = StageType(
    name="build-audio", kind="dataset", spec=AudioCaptionsSpec, run="beam_jobs.audio_captions:run", code_version="3"
)
BUILD_INSTRUCTIONS = StageType(
    name="build-instructions", kind="dataset", spec=InstructionsSpec, run="beam_jobs.instructions:run", code_version="2"
)
BUILD_AUDIO_TAGS = StageType(
    name="build-audio-tags", kind="dataset", spec=AudioTagsSpec, run="beam_jobs.audio_tags:run", code_version="3"
)
BUILD_SPEECH = StageType(
    name="build-speech", kind="dataset", spec=SpeechSpec, run="beam_jobs.speech:run", code_version="3"
)
BUILD_VIDEO = StageType(
    name="build-video", kind="dataset", spec=VideoSpec, run="beam_jobs.video_captions:run", code_version="3"
)
BUILD_IMAGE_TEXT = StageType(
    name="build-image-text", kind="dataset", spec=ImageTextSpec, run="beam_jobs.image_text:run", code_version="2"
)
BUILD_VISUAL_GENOME = StageType(
    name="build-visual-genome",
    kind="dataset",
    spec=VisualGenomeSpec,
    run="beam_jobs.visual_genome:run",
    code_version="2",
)
BUILD_VQA_OPTIONS = StageType(
    name="build-vqa-options", kind="dataset", spec=VqaOptionsSpec, run="beam_jobs.vqa_options:run", code_version="2"
)
BUILD_IMAGE_PAIRS = StageType(
    name="build-image-pairs", kind="dataset", spec=ImagePairsSpec, run="beam_jobs.image_pairs:run", code_version="2"
)
