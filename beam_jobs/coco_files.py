"""Annotation files in the layouts of COCO, VQA v2 and REFER, built up in memory and written at the end.

Made for generated sets of up to some 100,000 images (about 3 kB of annotations each). Key order and number
formats are fixed, so equal content gives equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_jobs.digit_texts import Question

INFO = {
    "description": "Scenes of handwritten digits (UCI Optical Recognition of Handwritten Digits)",
    "url": "https://archive.ics.uci.edu/dataset/80",
    "version": "1.0",
    "year": 1998,
    "contributor": "E. Alpaydin, C. Kaynak",
    "date_created": "1998/07/01",
}
LICENSES = [{"url": "https://creativecommons.org/licenses/by/4.0/", "id": 1, "name": "Attribution 4.0 International"}]
CATEGORIES = [{"supercategory": "digit", "id": d + 1, "name": str(d)} for d in range(10)]
ANSWERS = 10


class SplitWriter:
    """Collects one split's images, objects, captions and questions."""

    def __init__(self, split: str, vqa_subset: str, *, canvas: int):
        self.split = split
        self.vqa_subset = vqa_subset
        self.canvas = canvas
        self.images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []
        self._captions: list[dict[str, Any]] = []
        self._questions: list[dict[str, Any]] = []
        self._answers: list[dict[str, Any]] = []

    def add(
        self,
        image_id: int,
        file_name: str,
        *,
        boxes: Sequence[tuple[int, int, int, int]],
        classes: Sequence[int],
        captions: Sequence[str],
        questions: Sequence[Question],
    ) -> list[dict[str, Any]]:
        """Adds one image and returns its object annotations; `boxes` are x, y, width, height in pixels."""
        self.images.append(
            {
                "license": 1,
                "file_name": file_name,
                "coco_url": "",
                "height": self.canvas,
                "width": self.canvas,
                "date_captured": INFO["date_created"],
                "flickr_url": "",
                "id": image_id,
            }
        )
        objects = [
            _object(image_id, 100 * image_id + k, box, digit)
            for k, (box, digit) in enumerate(zip(boxes, classes, strict=True))
        ]
        self._objects.extend(objects)
        for k, text in enumerate(captions):
            self._captions.append({"image_id": image_id, "id": 100 * image_id + k, "caption": text})
        for k, question in enumerate(questions):
            # VQA v2 forms its ids the same way.
            self._add_question(image_id, 1000 * image_id + k, question)
        return objects

    def _add_question(self, image_id: int, question_id: int, question: Question) -> None:
        self._questions.append({"image_id": image_id, "question": question.text, "question_id": question_id})
        self._answers.append(
            {
                "question_type": question.question_type,
                "multiple_choice_answer": question.answer,
                "answers": [
                    {"answer": question.answer, "answer_confidence": "yes", "answer_id": k + 1} for k in range(ANSWERS)
                ],
                "image_id": image_id,
                "answer_type": question.answer_type,
                "question_id": question_id,
            }
        )

    def write(self, root: Path) -> dict[str, int]:
        """Writes the four files below `root`; returns how many of each there are."""
        head = {"info": INFO, "licenses": LICENSES, "images": self.images}
        _dump(
            root / "annotations" / f"instances_{self.split}.json",
            {**head, "annotations": self._objects, "categories": CATEGORIES},
        )
        _dump(root / "annotations" / f"captions_{self.split}.json", {**head, "annotations": self._captions})
        vqa = {"info": INFO, "license": LICENSES[0], "data_subtype": self.vqa_subset, "data_type": "mscoco"}
        _dump(
            root / "vqa" / f"v2_OpenEnded_mscoco_{self.vqa_subset}_questions.json",
            {**vqa, "task_type": "Open-Ended", "questions": self._questions},
        )
        _dump(root / "vqa" / f"v2_mscoco_{self.vqa_subset}_annotations.json", {**vqa, "annotations": self._answers})
        return {
            "images": len(self.images),
            "objects": len(self._objects),
            "captions": len(self._captions),
            "questions": len(self._questions),
        }


class ReferWriter:
    """Collects referring expressions over all splits, one reference per object."""

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []
        self._refs: list[dict[str, Any]] = []
        self._sentences = 0

    def add(
        self, image: dict[str, Any], objects: Sequence[dict[str, Any]], spoken: Sequence[Sequence[str]], *, split: str
    ) -> None:
        """Adds an image, its objects, and the expressions of each object."""
        self._images.append(image)
        self._objects.extend(objects)
        for annotation, texts in zip(objects, spoken, strict=True):
            ids = list(range(self._sentences, self._sentences + len(texts)))
            self._sentences += len(texts)
            self._refs.append(
                {
                    "sent_ids": ids,
                    "file_name": f"{Path(image['file_name']).stem}_{annotation['id']}.jpg",
                    "ann_id": annotation["id"],
                    "ref_id": len(self._refs),
                    "image_id": image["id"],
                    "split": split,
                    "sentences": [
                        {"tokens": text.split(), "raw": text, "sent_id": i, "sent": text}
                        for i, text in zip(ids, texts, strict=True)
                    ],
                    "category_id": annotation["category_id"],
                }
            )

    def write(self, folder: Path) -> dict[str, int]:
        """Writes `refs(unc).json` and `instances.json` into `folder`."""
        _dump(folder / "refs(unc).json", self._refs)
        _dump(
            folder / "instances.json",
            {
                "info": INFO,
                "licenses": LICENSES,
                "images": self._images,
                "annotations": self._objects,
                "categories": CATEGORIES,
            },
        )
        return {"refs": len(self._refs), "sentences": self._sentences}


def _object(image_id: int, annotation_id: int, box: tuple[int, int, int, int], digit: int) -> dict[str, Any]:
    x, y, w, h = box
    return {
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        "area": w * h,
        "iscrowd": 0,
        "image_id": image_id,
        "bbox": [x, y, w, h],
        "category_id": CATEGORIES[digit]["id"],
        "id": annotation_id,
    }


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(value, separators=(",", ":")))
