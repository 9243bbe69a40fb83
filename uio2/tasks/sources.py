"""Which dataset stands behind each stage input that tasks name, and what builds it. Light: no TensorFlow."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DatasetNeed:
    """A kind of dataset.

    Attributes:
      name: of the TFDS directory.
      build: arguments of `uio2 build` that make it.
      about: what its raw files are.
    """

    name: str
    build: str
    about: str

    @property
    def stage(self) -> str:
        """Name of the stage that makes it in a pipeline."""
        return f"build-{self.build}"


DATASETS = {
    "coco": DatasetNeed("coco_all", "coco", "COCO images, instances, captions; VQA v2 where given"),
    "refcoco": DatasetNeed("ref_coco", "refcoco", "REFER's RefCOCO with its COCO images"),
    "refcoco_plus": DatasetNeed("ref_coco", "refcoco-plus", "REFER's RefCOCO+ with its COCO images"),
    "refcocog": DatasetNeed("ref_coco", "refcocog", "REFER's RefCOCOg with its COCO images"),
    "regions": DatasetNeed("visual_genome", "visual-genome", "Visual Genome images with described regions"),
    "image_text": DatasetNeed("image_text", "image-text", "images with texts or tags"),
    "vqa_options": DatasetNeed("vqa_options", "vqa-options", "images with questions and answer options"),
    "depth": DatasetNeed("image_depth", "image-depth", "images with 16-bit depth maps"),
    "normals": DatasetNeed("image_normals", "image-normals", "images with surface normals as colours"),
    "audio": DatasetNeed("audio_captions", "audio", "sound clips with captions (Clotho, AudioCaps)"),
    "audio_tags": DatasetNeed("audio_tags", "audio-tags", "sound clips with labels (AudioSet, ESC-50)"),
    "speech": DatasetNeed("speech", "speech", "recordings with transcripts"),
    "video": DatasetNeed("video_captions", "video", "clips as frames and sound, with captions, tags or questions"),
    "alpaca": DatasetNeed("alpaca", "alpaca", "instructions with answers, Alpaca's JSON"),
    "dolly": DatasetNeed("dolly", "dolly", "instructions with context and answers, Dolly's JSON lines"),
    "flan2_flan2021": DatasetNeed("flan2_flan2021", "flan2021", "FLAN 2021 of the FLAN v2 collection"),
    "flan2_t0": DatasetNeed("flan2_t0", "flan-t0", "T0 of the FLAN v2 collection"),
    "flan2_niv2": DatasetNeed("flan2_niv2", "flan-niv2", "Super-NaturalInstructions of the FLAN v2 collection"),
    "flan2_cot": DatasetNeed("flan2_cot", "flan-cot", "chain of thought of the FLAN v2 collection"),
    "flan2_dialog": DatasetNeed("flan2_dialog", "flan-dialog", "dialogues of the FLAN v2 collection"),
}
