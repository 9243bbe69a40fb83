"""`digits-raw`: genuine layouts, true statements, disjoint sources, equal bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_jobs import dtmf
from beam_jobs.specs import (
    BUILD_AUDIO,
    BUILD_COCO,
    BUILD_REFCOCO,
    DIGITS_RAW,
    AudioCaptionsSpec,
    CocoSpec,
    DigitsRawSpec,
    RefCocoSpec,
)
from tests.beam_jobs.conftest import Built, run_stage
from uio2.pipeline.stage import StageError

TINY = DigitsRawSpec(num_train=60, num_validation=20, num_audio_train=6, num_audio_validation=3)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return run_stage(DIGITS_RAW, TINY, tmp_path_factory.mktemp("digits"))


def _json(raw: Built, name: str):
    return json.loads((raw.out / name).read_text())


def _scenes(raw: Built) -> dict[int, list[tuple[str, tuple[int, int, int, int]]]]:
    """Digit names and boxes by image, of both splits."""
    scenes: dict[int, list] = {}
    for split in ("train2017", "val2017"):
        value = _json(raw, f"annotations/instances_{split}.json")
        names = {c["id"]: c["name"] for c in value["categories"]}
        for annotation in value["annotations"]:
            scenes.setdefault(annotation["image_id"], []).append((names[annotation["category_id"]], annotation["bbox"]))
    return scenes


def test_no_scanned_digit_is_in_both_splits(raw: Built):
    used: dict[str, set[int]] = {"train2017": set(), "val2017": set()}
    for line in (raw.out / "sources.jsonl").read_text().splitlines():
        row = json.loads(line)
        used[row["split"]].update(row["digits"])
    assert used["train2017"]
    assert used["val2017"]
    assert not used["train2017"] & used["val2017"]


def test_the_same_spec_gives_the_same_bytes_and_a_larger_one_begins_with_them(raw: Built, tmp_path: Path):
    again = run_stage(DIGITS_RAW, TINY, tmp_path / "again")
    assert again.shards() == raw.shards()
    larger = run_stage(DIGITS_RAW, dataclasses.replace(TINY, num_train=70), tmp_path / "larger").shards()
    images = {name: data for name, data in raw.shards().items() if name.endswith(".jpg")}
    assert {name: larger[name] for name in images} == images
    other = run_stage(DIGITS_RAW, dataclasses.replace(TINY, seed=1), tmp_path / "other").shards()
    assert other["images/train2017/000000000001.jpg"] != images["images/train2017/000000000001.jpg"]


def test_boxes_hold_the_ink(raw: Built):
    for image_id, objects in list(_scenes(raw).items())[:20]:
        split = "train2017" if image_id < 1_000_000 else "val2017"
        pixels = np.asarray(Image.open(raw.out / "images" / split / f"{image_id:012d}.jpg"), int).max(-1)
        outside = np.ones_like(pixels, bool)
        for _, (x, y, w, h) in objects:
            assert x >= 0
            assert y >= 0
            assert x + w <= TINY.canvas
            assert y + h <= TINY.canvas
            assert pixels[y : y + h, x : x + w].max() > 150
            outside[y : y + h, x : x + w] = False
        # JPEG blocks smear a little ink over the edge of a box.
        assert np.quantile(pixels[outside], 0.98) < 130


def test_questions_have_ten_equal_true_answers(raw: Built):
    scenes = _scenes(raw)
    questions = _json(raw, "vqa/v2_OpenEnded_mscoco_train2014_questions.json")["questions"]
    annotations = {a["question_id"]: a for a in _json(raw, "vqa/v2_mscoco_train2014_annotations.json")["annotations"]}
    assert len(questions) == len(annotations) == 3 * TINY.num_train
    for question in questions:
        digits = [name for name, _ in scenes[question["image_id"]]]
        annotation = annotations[question["question_id"]]
        (answer,) = {a["answer"] for a in annotation["answers"]}
        assert len(annotation["answers"]) == 10
        assert answer == annotation["multiple_choice_answer"]
        text = question["question"]
        if text.startswith("How many"):
            assert answer == str(len(digits))
        elif text.startswith("Is there"):
            assert answer == ("yes" if re.search(r"\d", text)[0] in digits else "no")
        elif text.startswith("Which"):
            assert answer in digits
        else:
            assert re.search(r"\d", text)[0] in digits
    kinds = Counter(a["answer_type"] for a in annotations.values())
    assert set(kinds) == {"number", "other", "yes/no"}


def test_referring_expressions_name_one_object_of_the_scene(raw: Built):
    scenes = _scenes(raw)
    refs = _json(raw, "refer/refcoco/refs(unc).json")
    assert {r["split"] for r in refs} == {"train", "val"}
    for ref in refs:
        objects = scenes[ref["image_id"]]
        name, (x, y, w, h) = objects[ref["ann_id"] % 100]
        for sentence in ref["sentences"]:
            text = sentence["sent"]
            if digit := re.search(r"\d", text):
                assert digit[0] == name
                assert [n for n, _ in objects].count(name) == 1
            centres = [(bx + bw / 2, by + bh / 2) for _, (bx, by, bw, bh) in objects]
            mine = (x + w / 2, y + h / 2)
            expected = {
                "leftmost": min(c[0] for c in centres),
                "topmost": min(c[1] for c in centres),
                "rightmost": max(c[0] for c in centres),
                "bottommost": max(c[1] for c in centres),
            }
            for word, value in expected.items():
                if word in text:
                    assert mine[word in ("topmost", "bottommost")] == value


def test_tones_are_the_keys_their_captions_spell(raw: Built):
    rows = list(csv.DictReader(io.StringIO((raw.out / "audio" / "captions_train.csv").read_text())))
    assert len(rows) == TINY.num_audio_train
    for row in rows:
        with wave.open(str(raw.out / "audio" / "train" / row["file_name"])) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        keys = [
            {"star": "*", "hash": "#"}.get(w, w) for w in row["caption_1"].removeprefix("a telephone dials ").split()
        ]
        assert _heard(sound) == keys


def _heard(sound: np.ndarray) -> list[str]:
    """The keys in a clip: loud stretches, and the strongest row and column frequency of each."""
    loud = np.convolve(np.abs(sound), np.ones(320) / 320, "same") > 0.05
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(int), [0]])))
    keys = []
    for start, stop in edges.reshape(-1, 2):
        part = sound[start:stop] * np.hanning(stop - start)
        t = np.arange(len(part)) / dtmf.SAMPLE_RATE
        power = lambda f, part=part, t=t: abs(np.sum(part * np.exp(-2j * np.pi * f * t)))  # noqa: E731
        pair = max(dtmf.ROWS, key=power), max(dtmf.COLUMNS, key=power)
        keys.append(next(key for key, value in dtmf.FREQUENCIES.items() if value == pair))
    return keys


def test_the_builders_read_it_without_a_drop(raw: Built, tmp_path: Path):
    coco = run_stage(BUILD_COCO, CocoSpec(num_shards=2), tmp_path / "coco", raw=raw.artifact)
    assert coco.stats["splits"] == {"train": 60, "validation": 20}
    refcoco = run_stage(BUILD_REFCOCO, RefCocoSpec(num_shards=2), tmp_path / "refcoco", raw=raw.artifact)
    assert refcoco.stats["variant"] == "refcoco_unc"
    audio = run_stage(BUILD_AUDIO, AudioCaptionsSpec(), tmp_path / "audio", raw=raw.artifact)
    assert audio.stats["splits"] == {"train": 6, "validation": 3}
    assert coco.stats["dead_letters"] == refcoco.stats["dead_letters"] == audio.stats["dead_letters"] == 0


@pytest.mark.parametrize("change", [{"sizes": (120,)}, {"max_digits": 6}, {"num_validation": 0}])
def test_impossible_settings_are_named(tmp_path: Path, change: dict):
    with pytest.raises(StageError, match=next(iter(change))):
        run_stage(DIGITS_RAW, dataclasses.replace(TINY, **change), tmp_path)
