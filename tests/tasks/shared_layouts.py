"""Raw files for every builder, in the layouts they are published in, made of what lies in `../shared/data`.

Each function lays out one source below a folder and returns its roots by role, as `uio2 build` takes them. Images,
sounds, films, boxes and texts are real. What is not there is said where it is stood in for.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.beam_jobs.conftest import SHARED, lines

COCO = SHARED / "coco_mini"
AUDIO = SHARED / "audio_mini"
TEXT = SHARED / "text_mini"
Roots = Mapping[str, Path]


def coco(folder: Path) -> Roots:
    """COCO 2017 and VQA v2, as they lie."""
    return {"images": COCO, "annotations": COCO / "annotations", "vqa": COCO / "vqa"}


def refcocog(folder: Path) -> Roots:
    """RefCOCOg (google) of the COCO images, as it lies."""
    return {"images": COCO, "refer": COCO / "refer"}


def refcoco(folder: Path, *, name: str = "refcoco") -> Roots:
    """REFER's layout; the expressions are those of RefCOCOs, for no image of RefCOCO's own is there."""
    instances = json.loads((COCO / "annotations" / "instances_val2017.json").read_text())
    told = [row for row in _json(COCO / "refer" / "refcocos" / "refcocos_test.json") if row["solution"]]
    refs = []
    for number, row in enumerate(told):
        image = int(Path(row["image"]).stem)
        corner, annotation = row["solution"][:2], None
        for annotation in instances["annotations"]:
            if annotation["image_id"] == image and np.allclose(annotation["bbox"][:2], corner, atol=0.1):
                break
        text = row["normal_caption"]
        sentence = {"sent_id": number, "raw": text, "sent": text.lower(), "tokens": text.lower().split()}
        refs.append({"ref_id": number, "ann_id": annotation["id"], "image_id": image, "split": "val",
                     "category_id": annotation["category_id"], "file_name": f"{image:012d}_{number}.jpg",
                     "sent_ids": [number], "sentences": [sentence]})  # fmt: skip
    _write(folder / name / "refs(unc).json", refs)
    _write(folder / name / "instances.json", instances)
    return {"images": COCO, "refer": folder}


def refcoco_plus(folder: Path) -> Roots:
    """The same under the other name."""
    return refcoco(folder, name="refcoco+")


def visual_genome(folder: Path) -> Roots:
    """Visual Genome's layout; boxes and phrases are those of RefCOCOg, for no described region is there."""
    instances = _json(COCO / "refer" / "refcocog" / "instances.json")
    boxes = {row["id"]: row["bbox"] for row in instances["annotations"]}
    refs = _json(COCO / "refer" / "refcocog" / "refs(google).json")
    sizes = {image["id"]: image for image in instances["images"]}
    used = sorted({ref["image_id"] for ref in refs})
    images = [{"image_id": i, "width": sizes[i]["width"], "height": sizes[i]["height"]} for i in used]
    regions = [{"id": i, "regions": [_region(ref, boxes) for ref in refs if ref["image_id"] == i]} for i in used]
    for number in used:
        _copy(COCO / "train2017" / f"{number:012d}.jpg", folder / "images" / "VG_100K" / f"{number}.jpg")
    _write(folder / "annotations" / "image_data.json", images)
    _write(folder / "annotations" / "region_descriptions.json", regions)
    return {"images": folder / "images", "annotations": folder / "annotations"}


def _region(ref: Mapping[str, Any], boxes: Mapping[int, list[float]]) -> dict[str, Any]:
    x, y, width, height = boxes[ref["ann_id"]]
    return {"region_id": ref["ref_id"], "image_id": ref["image_id"], "phrase": ref["sentences"][0]["raw"],
            "x": x, "y": y, "width": width, "height": height}  # fmt: skip


def image_text(folder: Path) -> Roots:
    """A table of COCO's images with their captions and the classes of their objects."""
    rows = []
    for split in ("train", "val"):
        captions = _json(COCO / "annotations" / f"captions_{split}2017.json")
        instances = _json(COCO / "annotations" / f"instances_{split}2017.json")
        names = {c["id"]: c["name"] for c in instances["categories"]}
        for image in captions["images"]:
            texts = [row["caption"] for row in captions["annotations"] if row["image_id"] == image["id"]]
            found = [names[a["category_id"]] for a in instances["annotations"] if a["image_id"] == image["id"]]
            file = f"{split}2017/{image['file_name']}"
            rows.append({"image": file, "texts": texts, "labels": sorted(set(found)), "split": split})
    return {"images": COCO, "annotations": lines(folder / "images.jsonl", rows)}


def vqa_options(folder: Path) -> Roots:
    """A-OKVQA's layout of VQA v2 questions: the ten people's different answers are the options."""
    asked = _json(COCO / "vqa" / "v2_OpenEnded_mscoco_train2014_questions.json")["questions"]
    texts = {row["question_id"]: row["question"] for row in asked}
    rows = []
    for row in _json(COCO / "vqa" / "v2_mscoco_train2014_annotations.json")["annotations"]:
        answers = Counter(answer["answer"] for answer in row["answers"])
        choices = sorted(answers)
        rows.append({"image_id": row["image_id"], "question_id": f"q{row['question_id']}",
                     "question": texts[row["question_id"]], "choices": choices,
                     "correct_choice_idx": choices.index(answers.most_common(1)[0][0])})  # fmt: skip
    _write(folder / "aokvqa_v1p0_val.json", [row for row in rows if len(row["choices"]) > 1])
    return {"images": COCO, "annotations": folder}


def depth(folder: Path) -> Roots:
    """Fixtures of the format alone: a floor that leads away stands in for depth, for no depth map is there."""
    return _maps(folder, "depth", lambda size: np.linspace(5000, 800, size[1])[:, None].repeat(size[0], 1))


def normals(folder: Path) -> Roots:
    """Fixtures of the format alone: a wall and a floor stand in for normals, for no normal map is there."""

    def colours(size: tuple[int, int]) -> np.ndarray:
        found = np.full((size[1], size[0], 3), (128, 128, 255))
        found[size[1] // 2 :] = (128, 255, 128)
        return found

    return _maps(folder, "normals", colours)


def _maps(folder: Path, role: str, draw: Callable[[tuple[int, int]], np.ndarray]) -> Roots:
    for path in sorted((COCO / "val2017").glob("*.jpg"))[:4]:
        _copy(path, folder / "images" / "val" / path.name)
        values = draw(Image.open(path).size)
        target = folder / role / "val" / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint16 if values.ndim == 2 else np.uint8)).save(target)
    return {"images": folder / "images", role: folder / role}


def audio(folder: Path) -> Roots:
    """Clotho's table of the sounds that have a text and are no speech."""
    rows = [row for row in _manifest(AUDIO) if row["text"] and row["kind"] in ("sound_event", "audio_qa")]
    text = "file_name,caption_1\n" + "".join(f'{row["file"]},"{row["text"]}"\n' for row in rows)
    (folder / "captions_validation.csv").write_text(text)
    return {"audio": AUDIO, "annotations": folder}


def audio_tags(folder: Path) -> Roots:
    """ESC-50, as it lies."""
    return {"audio": AUDIO / "esc50"}


def speech(folder: Path) -> Roots:
    """A table of the recordings of speech."""
    rows = [row for row in _manifest(AUDIO) if row["kind"] == "speech"]
    return {"audio": AUDIO, "annotations": lines(folder / "val.jsonl", rows)}


def video(folder: Path) -> Roots:
    """A table of the films; questions stand in the column of labels, behind a mark."""
    rows = []
    for row in _manifest(SHARED / "video_mini"):
        label = row["label"] or ""
        question = label.removeprefix("<video>") if label.startswith("<video>") else ""
        told = {"file": row["file"], "caption": row["text"], "label": "" if question else label}
        rows.append(told | ({"question": question, "answer": row["text"]} if question else {}))
    rows = [row for row in rows if row["caption"] or row["label"]]
    return {"video": SHARED / "video_mini", "annotations": lines(folder / "val.jsonl", rows)}


def alpaca(folder: Path) -> Roots:
    """Alpaca's JSON, as it lies."""
    return {"text": TEXT / "alpaca_en.json"}


def dolly(folder: Path) -> Roots:
    """Dolly's columns of Alpaca's seed tasks."""
    seeds = [(row, row["instances"][0]) for row in _lines(TEXT / "alpaca_seed_tasks.jsonl")]
    rows = [{"instruction": row["instruction"], "context": one["input"], "response": one["output"],
             "category": row["name"]} for row, one in seeds if one["output"]]  # fmt: skip
    return {"text": lines(folder / "dolly.jsonl", rows)}


def flan(folder: Path) -> Roots:
    """FLAN v2's columns of T0's prompts, dealt out to its five sub-mixtures, for no row of the others is there."""
    mixtures = ("Flan2021", "T0", "NIv2", "CoT", "Dialog")
    rows = [
        {"inputs": row["prompt"], "targets": row["completion"], "task_name": row["template"], "task_source": source}
        for row, source in zip(_lines(TEXT / "t0_flan_style.jsonl"), itertools.cycle(mixtures), strict=False)
    ]
    return {"text": lines(folder / "flan.jsonl", rows)}


# By the name of `uio2.tasks.sources.DATASETS`.
LAYOUTS: Mapping[str, Callable[[Path], Roots]] = {
    "coco": coco, "refcoco": refcoco, "refcoco_plus": refcoco_plus, "refcocog": refcocog, "regions": visual_genome,
    "image_text": image_text, "vqa_options": vqa_options, "depth": depth, "normals": normals, "audio": audio,
    "audio_tags": audio_tags, "speech": speech, "video": video, "alpaca": alpaca, "dolly": dolly,
    **dict.fromkeys(("flan2_flan2021", "flan2_t0", "flan2_niv2", "flan2_cot", "flan2_dialog"), flan),
}  # fmt: skip


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _manifest(folder: Path) -> Iterable[dict[str, Any]]:
    return _lines(folder / "manifest.jsonl")


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
