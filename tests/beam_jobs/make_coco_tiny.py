"""Makes `tests/fixtures/coco_tiny`: a genuine COCO layout of our own drawing.

Run as `python -m tests.beam_jobs.make_coco_tiny`.

Scenes of handwritten digits, bent towards what real COCO has: wide and grey images, an image with no captions,
some with no questions, a crowd with run-length mask, category ids with gaps, 2014-style names
in REFER's files, and references as a pickle beside the JSON. 16 train and 8 validation images, about 200 kB.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beam_jobs import digits_raw
from beam_jobs.specs import DigitsRawSpec
from uio2.pipeline.stage import StageContext

TARGET = Path(__file__).parents[1] / "fixtures" / "coco_tiny"
SPEC = DigitsRawSpec(num_train=16, num_validation=8, num_audio_train=0, num_audio_validation=0, noise=3.0, seed=7)
WIDE, GREY, NO_CAPTIONS, NO_QUESTIONS, CROWD = (2, 9), (3,), (4,), (5, 6), 7
# As in COCO, ids are not contiguous.
CATEGORY = {k: k if k < 6 else k + 3 for k in range(1, 11)}


def main() -> None:
    """Replaces the fixture."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        digits_raw.run(SPEC, StageContext({}, raw, raw, lambda *_: None, lambda *_: None))
        _bend_images(raw / "images")
        for path in sorted(raw.rglob("*.json")):
            value = _bend(path, json.loads(path.read_text()))
            path.write_text(json.dumps(value, separators=(",", ":")))
        (raw / "refer" / "refcoco").rename(raw / "refer" / "refcocog")
        refs = raw / "refer" / "refcocog" / "refs(unc).json"
        value = json.loads(refs.read_text())
        refs.with_name("refs(umd).p").write_bytes(pickle.dumps(value, protocol=2))
        refs.rename(refs.with_name("refs(umd).json"))
        (raw / "sources.jsonl").unlink()
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.copytree(raw, TARGET)


def _bend_images(images: Path) -> None:
    for image_id in (*WIDE, *GREY):
        path = images / "train2017" / f"{image_id:012d}.jpg"
        image = Image.open(path)
        if image_id in WIDE:
            wide = Image.fromarray(np.full((96, 128, 3), 30, np.uint8))
            wide.paste(image, (0, 0))
            image = wide
        else:
            image = image.convert("L")
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=92)
        path.write_bytes(buffer.getvalue())


def _bend(path: Path, value: Any) -> Any:
    if isinstance(value, list):
        for ref in value:
            ref["category_id"] = CATEGORY[ref["category_id"]]
            ref["file_name"] = f"COCO_train2014_{ref['file_name']}"
        return value
    for image in value.get("images", ()):
        if image["id"] in WIDE:
            image["width"] = 128
        if path.parent.name == "refcoco":
            image["file_name"] = f"COCO_train2014_{image['file_name']}"
    for category in value.get("categories", ()):
        category["id"] = CATEGORY[category["id"]]
    for key in ("annotations", "questions"):
        left_out = NO_CAPTIONS if "captions" in path.name else NO_QUESTIONS if path.parent.name == "vqa" else ()
        if key in value:
            value[key] = [a for a in value[key] if a["image_id"] not in left_out]
    if path.name.startswith("instances"):
        for annotation in value["annotations"]:
            annotation["category_id"] = CATEGORY[annotation["category_id"]]
        if path.name == "instances_train2017.json":
            value["annotations"].append(_crowd())
    return value


def _crowd() -> dict[str, Any]:
    # Column-major runs, as COCO writes crowds: 10 columns of 20 from the top left corner.
    runs = [0, 20, *[76, 20] * 9, 96 * 86 + 76]
    return {
        "segmentation": {"counts": runs, "size": [96, 96]},
        "area": 200.5,
        "iscrowd": 1,
        "image_id": CROWD,
        "bbox": [0, 0, 10, 20],
        "category_id": CATEGORY[1],
        "id": 900100000007,
    }


if __name__ == "__main__":
    main()
