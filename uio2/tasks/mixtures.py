"""Mixtures by name: wherever rates name tasks, they may name one of these. Light: no TensorFlow.

A mixture of rate r has r in all, shared out among its members by their weights; members may be mixtures. Weights follow
how much there is to learn from a source, not how many records it has, with the reasons beside them: sampling in
proportion to size would leave most tasks unseen (image-text data outnumbers the rest a hundredfold).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class NamedMixture:
    """Tasks, and mixtures, with weights.

    Attributes:
      about: what it is for, a few words.
      weights: member name -> weight relative to the other members.
    """

    about: str
    weights: Mapping[str, float]


MIXTURES: dict[str, NamedMixture] = {
    # Like the number of expressions in train (120624, 120191, 85474): each is seen about equally often.
    "refexp": NamedMixture(
        "referring expressions", {"refcoco_unc": 1.4, "refcoco_plus_unc": 1.4, "refcocog_google": 1.0}
    ),
    # FLAN v2's own proportions of its parts.
    "flan2": NamedMixture(
        "instructions of the FLAN v2 collection",
        {"flan2_flan2021": 4.0, "flan2_t0": 3.0, "flan2_niv2": 1.0, "flan2_cot": 1.0, "flan2_dialog": 1.0},
    ),
    # Text answers need most of the examples. A picture as target gives 1024 codes to learn from where an answer gives
    # a few tokens, so those tasks get half; maps (depth, normals, segments) are alike among each other and share.
    "vision_language": NamedMixture(
        "pictures, with text or pictures as the answer",
        {
            "image_caption_coco_2017": 2.0, "vqa_coco_2017": 2.0, "vqa_options": 1.0, "region_captioning": 1.0,
            "image_tagging": 1.0, "box_classification_coco_2017": 1.0, "refexp": 2.0,
            "object_detection_coco_2017": 1.0, "localization_coco_2017": 1.0, "keypoints_coco_2017": 1.0,
            "image_generation_coco_2017": 1.0, "image_inpainting_coco": 0.5, "segmentation_coco_2017": 0.5,
            "depth_estimation": 0.5, "surface_normals": 0.5,
        },
    ),
    # To hear and to make sound in equal parts of what there is to learn: a made segment is 512 codes.
    "audio": NamedMixture(
        "sound, with text or sound as the answer",
        {"audio_caption": 2.0, "audio_tagging": 1.0, "speech_to_text": 2.0, "audio_generation": 1.0,
         "text_to_speech": 1.0},
    ),
    # The self-supervised quarter keeps what pre-training taught, as the paper's instruction tuning carries a share of
    # its pre-training data along; the rest follows how many different skills there are in each modality.
    "multimodal": NamedMixture(
        "everything: pictures, sound, video, instructions, denoising",
        {
            "vision_language": 30.0, "flan2": 20.0, "alpaca": 2.5, "dolly": 2.5, "audio": 12.0,
            "video_captioning": 3.0, "video_tagging": 2.0, "video_qa": 3.0,
            "denoise_text_alpaca": 2.5, "denoise_text_dolly": 2.5, "denoise_image_coco": 10.0, "denoise_audio": 10.0,
        },
    ),
}  # fmt: skip


def shares(name: str) -> dict[str, float]:
    """The tasks of a mixture with their shares, which add up to 1."""
    weights = MIXTURES[name].weights
    total = sum(weights.values())
    found: dict[str, float] = {}
    for member, weight in weights.items():
        inner = shares(member) if member in MIXTURES else {member: 1.0}
        for task, share in inner.items():
            found[task] = found.get(task, 0.0) + share * weight / total
    return found


def expand(rates: Mapping[str, float]) -> dict[str, float]:
    """Rates of tasks and mixtures as rates of tasks alone; a task that is named several times gets the sum.

    Raises:
      TaskError: a name is neither; the message names the nearest, or all. Or a mixture names a task that is not there.
    """
    from uio2.tasks.families import TaskError, all_tasks  # they import the module that imports this one

    tasks = all_tasks()
    found: dict[str, float] = {}
    for name, rate in rates.items():
        known = sorted(tasks.keys() | MIXTURES.keys())
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise TaskError(f"no task or mixture {name!r}; {hint}")
        members = {name: rate} if name in tasks else {task: share * rate for task, share in shares(name).items()}
        for task, part in members.items():
            if task not in tasks:
                raise TaskError(f"mixture {name!r} names the task {task!r}, which does not exist")
            found[task] = found[task] + part if task in found else part
    return found
