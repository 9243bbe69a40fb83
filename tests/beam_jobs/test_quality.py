"""The quality report: what it counts, what it finds twice, and the page."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_jobs.images import stored_image
from beam_jobs.quality import doubles, looks, near
from beam_jobs.quality.figures import ROW, Place
from beam_jobs.quality.hashes import look
from beam_jobs.quality.measures import MOST_NAMES, Names
from beam_jobs.specs import (
    BUILD_AUDIO,
    BUILD_COCO,
    BUILD_INSTRUCTIONS,
    AudioCaptionsSpec,
    CocoSpec,
    InstructionsSpec,
)
from tests.beam_jobs.conftest import FIXTURE, Built, at, edit, lines, pointing, run_stage
from uio2.pipeline.stage import StageError

SMALL = CocoSpec(num_shards=3)
MARKUP = "<script>alert(1)</script> & a \ud800"


def _square(raw: Path, folder: str) -> list[Path]:
    """The images of 96 x 96; a few are of another size."""
    return [p for p in sorted((raw / "images" / folder).glob("*.jpg")) if Image.open(p).size == (96, 96)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny COCO with one image three times, once in validation, and another saved again in validation."""
    raw = tmp_path_factory.mktemp("planted") / "raw"
    shutil.copytree(FIXTURE, raw)
    train, validation = (_square(raw, folder) for folder in ("train2017", "val2017"))
    shutil.copy(train[0], train[1])
    shutil.copy(train[0], validation[0])
    Image.open(train[2]).save(validation[1], quality=50)

    def speak(value):
        value["annotations"][0]["caption"] = MARKUP.replace("\ud800", "")

    edit(raw / "annotations" / "captions_train2017.json", speak)
    return raw


@pytest.fixture(scope="module")
def built(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return run_stage(BUILD_COCO, SMALL, tmp_path_factory.mktemp("quality"), raw=at(planted))


def _report(built: Built) -> dict:
    return json.loads((built.out / "quality.json").read_text())


def test_duplicates_look_alikes_and_leaks_are_found(built: Built, planted: Path):
    report = _report(built)
    assert built.stats["quality"] == {"duplicates": 2, "near_duplicates": 2, "leaked": 2}
    assert report["leakage"]["splits"] == {"validation": {"records": 8, "content": 1, "near": 1, "key": 0, "any": 2}}
    train, validation = ([int(p.stem) for p in _square(planted, s)] for s in ("train2017", "val2017"))
    (group,) = report["duplicates"]["groups"]
    assert sorted(group) == sorted([f"train: {train[0]}", f"train: {train[1]}", f"validation: {validation[0]}"])
    (pair,) = report["near_duplicates"]["pairs"]
    assert pair["keys"] == [f"train: {train[2]}", f"validation: {validation[1]}"]


@pytest.mark.parametrize(
    ("mode", "format", "size"),
    [("RGB", "JPEG", (300, 200)), ("L", "JPEG", (700, 90)), ("RGB", "JPEG", (40, 30)), ("RGBA", "PNG", (90, 70))],
)
def test_a_look_noted_in_checking_is_that_of_decoding_again(mode: str, format: str, size: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).convert(mode).save(file, format)
    data = file.getvalue()
    with looks.noting() as rows:
        stored_image(data, max_pixels=10**6)
    notes = looks.Notes()
    notes.add([])
    notes.add(rows)
    kept = io.BytesIO()
    notes.save(kept)
    found = looks.Notes.load(kept.getvalue())
    assert found.look(1, data) == look(data, decode=True)
    assert [found.look(n, d) for n, d in ((0, data), (1, data + b" "), (2, data))] == [None, None, None]


def test_figures_are_those_of_the_annotation_files(built: Built):
    report = _report(built)
    assert report["splits"] == {
        s: {"records": n, "bytes": report["splits"][s]["bytes"]} for s, n in built.stats["splits"].items()
    }
    assert report["accounting"] == built.stats["records"]
    value = json.loads((FIXTURE / "annotations/instances_train2017.json").read_text())
    names = {c["id"]: c["name"] for c in value["categories"]}
    classes = [names[a["category_id"]] for a in value["annotations"]]
    assert report["fields"]["objects/label"]["classes"]["train"]["most"] == {
        name: classes.count(name) for name in sorted(set(classes), key=lambda n: (-classes.count(n), n))
    }
    area = report["fields"]["objects/bbox"]["area"]["train"]
    pixels = {i["id"]: i["width"] * i["height"] for i in value["images"]}
    sizes = [100 * a["bbox"][2] * a["bbox"][3] / pixels[a["image_id"]] for a in value["annotations"]]
    assert (area["count"], area["most"]) == (len(sizes), pytest.approx(max(sizes), rel=1e-3))
    assert area["mean"] == pytest.approx(np.mean(sizes), rel=1e-3)
    stored = [f"{i['width']} x {i['height']}" for i in value["images"]]
    assert report["fields"]["image"]["size"]["train"]["most"] == {size: stored.count(size) for size in stored}


def test_the_page_loads_nothing_and_escapes_what_it_shows(built: Built):
    page = (built.out / "quality.html").read_text()
    targets = re.findall(r'(?:src|href)="([^"]{0,30})|url\(([^)]{0,30})', page)
    assert targets
    assert all(a.startswith("data:image/") for a, b in targets if a or b)
    assert "<script" not in page
    assert len(page) < 300_000
    assert page.count("<svg") == 12  # eight samples of train, four of validation


def test_too_much_leakage_fails_the_build(planted: Path, tmp_path: Path):
    # Without look-alikes one of eight is left.
    counts = dataclasses.replace(SMALL, quality="counts", max_leaked_fraction=0.125)
    built = run_stage(BUILD_COCO, counts, tmp_path / "may", raw=at(planted))
    assert built.stats["quality"] == {"duplicates": 2, "leaked": 1}
    with pytest.raises(StageError, match=r"1 of 8 records of validation .*12.5%.*= validation \d+.*max_leaked"):
        run_stage(BUILD_COCO, dataclasses.replace(counts, max_leaked_fraction=0.1), tmp_path / "not", raw=at(planted))
    assert not (tmp_path / "not" / "out" / "quality.json").exists()


def test_texts_of_other_keys_are_compared_too(tmp_path: Path):
    rows = [{"instruction": f"Count to {i}.", "output": "1 " * i} for i in range(1, 40)]
    source = lines(tmp_path / "rows.jsonl", [*rows, rows[3], {**rows[4], "output": MARKUP}])
    spec = InstructionsSpec(validation_fraction=0.5, max_dropped_fraction=1.0)
    built = run_stage(BUILD_INSTRUCTIONS, spec, tmp_path, raw=pointing(tmp_path / "raw", text=source))
    report = _report(built)
    assert (report["compared"]["by"], report["duplicates"]["records"]) == ("text", 1)
    assert sorted(key.split(": ")[1] for key in report["duplicates"]["groups"][0]) == ["rows.jsonl:3", "rows.jsonl:39"]
    words = report["fields"]["response"]["words"]
    assert max(words[s]["most"] for s in ("train", "validation")) == 39
    # A letter about bytes that are no text is shown all the same.
    assert "rows.jsonl:40" in (built.out / "quality.html").read_text()


def test_clips_are_measured_and_silence_is_told(tmp_path: Path):
    folder = tmp_path / "clips"
    (folder / "train").mkdir(parents=True)
    for name, level in (("loud", 9000), ("silent", 0), ("again", 9000)):
        with wave.open(str(folder / "train" / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes((level * np.sin(np.arange(12_000) / 9)).astype("<i2").tobytes())
    table = "file_name,caption_1\nloud.wav,a tone\nsilent.wav,nothing\nagain.wav,the tone\n"
    (folder / "captions_train.csv").write_text(table)
    built = run_stage(BUILD_AUDIO, AudioCaptionsSpec(), tmp_path, raw=pointing(tmp_path / "raw", audio=folder))
    sound = _report(built)["fields"]["audio"]
    assert sound["seconds"]["train"]["mean"] == 0.75
    assert sound["problems"]["train"]["most"] == {"digital silence": 1}
    assert built.stats["quality"]["duplicates"] == 1
    assert (built.out / "quality.html").read_text().count("data:image/png") >= 3


def test_look_alikes_are_those_of_comparing_all_with_all(monkeypatch: pytest.MonkeyPatch):
    draw = np.random.default_rng(0)
    rows = np.zeros(2000, ROW)
    rows["content"] = np.arange(1, 2001)
    rows["visual"] = draw.integers(1, 2**63, 2000, np.uint64)
    rows["visual"][::50] = 0
    for i in range(1, 2000, 5):  # within a few bits of the one before
        rows["visual"][i] = rows["visual"][i - 1]
        for bit in draw.integers(0, 64, draw.integers(0, 8)):
            rows["visual"][i] ^= np.uint64(1 << int(bit))
    rows[3::10] = rows[2::10]  # the same picture
    rows["place"] = [Place(i % 2, i // 2).packed for i in range(2000)]
    rows = rows[np.argsort(rows["place"])]
    found = doubles.find(rows, splits=["train", "validation"])

    one, other = rows[:, None], rows[None]
    close = np.bitwise_count(one["visual"] ^ other["visual"]) <= 4
    close &= (one["visual"] > 0) & (other["visual"] > 0) & (one["content"] != other["content"])
    validation = rows["place"] >= Place(1, 0).packed
    assert found.near == close.any(1).sum() > 200
    assert found.leaks["validation"].near == close[validation][:, ~validation].any(1).sum()
    assert [pair.bits for pair in found.pairs] == sorted(pair.bits for pair in found.pairs)
    assert all({pair.one.shard, pair.other.shard} == {0, 1} for pair in found.pairs)
    monkeypatch.setattr(near, "WINDOW", 1)
    crowded = doubles.find(rows, splits=["train", "validation"])
    assert crowded.cut
    assert 0 < crowded.near <= found.near


def test_of_too_many_names_the_same_ones_are_kept_whatever_the_order():
    names = [f"name {i}" for i in range(3 * MOST_NAMES)]
    parts = []
    for order in (names, names[::-1]):
        total = Names()
        for start in (0, 2 * MOST_NAMES):
            part = Names()
            for name in order[start : start + 2 * MOST_NAMES]:
                part.add(name)
            total.merge(part)
        parts.append(total)
    assert parts[0].counts == parts[1].counts
    assert len(parts[0].counts) == MOST_NAMES
    assert parts[0].cut
    assert set(parts[0].counts.values()) == {1}
