"""Prediction files: what is written is read back, and a set without exactly one row per example is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from uio2.evaluate.predictions import PredictionsError, read_all, read_task, write_shard

from . import tiny

TASK = "vqa_coco_2017"


@pytest.fixture
def rows():
    return tiny.rows_of(TASK, found=tiny.scenes(number=7, seed=3, validation=True), skill=0.5)


def test_what_is_written_is_read_back(tmp_path, rows):
    rows[3] = dataclasses.replace(rows[3], text='a "quote"\u2028 and ünïcode <b>', true_box=(1.5, 2.0, 3.0, 4.0))
    rows[4] = dataclasses.replace(rows[4], truth={"boxes": [[1.5, 2.0, 3.0, 4.0]], "labels": ["cat"]}, media="p/4.png")
    tiny.write_predictions(tmp_path, rows={TASK: rows}, shards=3)
    (found,) = read_all(tmp_path)
    assert list(found.rows) == rows
    assert (found.header.task, found.header.input_size) == (TASK, (96, 96))


def test_files_of_version_1_are_read_without_what_they_lack(tmp_path, rows):
    tiny.write_predictions(tmp_path, rows={TASK: rows})
    for path in tmp_path.rglob("*.json*"):
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else []
        for line in lines[1:]:
            del line["truth"], line["media"]
        values = lines or [json.loads(path.read_text())]
        values[0]["version"] = 1
        path.write_text("".join(json.dumps(value) + "\n" for value in values))
    (found,) = read_all(tmp_path)
    assert list(found.rows) == rows


def test_a_row_without_its_truth_is_no_row(tmp_path, rows):
    tiny.write_predictions(tmp_path, rows={TASK: rows})
    path = _shard(tmp_path, 0)
    path.write_text(path.read_text().replace('"truth"', '"proof"'))
    with pytest.raises(PredictionsError, match="truth"):
        list(read_all(tmp_path))


def test_equal_rows_give_equal_bytes(tmp_path, rows):
    one = tiny.write_predictions(tmp_path / "a", rows={TASK: rows})
    two = tiny.write_predictions(tmp_path / "b", rows={TASK: rows})
    assert one.digest == two.digest


def _shard(folder, number):
    return folder / TASK / f"predictions-{number:05d}-of-00002.jsonl"


def _cut_last_line(folder):
    lines = _shard(folder, 1).read_text().splitlines(keepends=True)
    _shard(folder, 1).write_text("".join(lines[:-1]))


def _half_a_line(folder):
    _shard(folder, 1).write_text(_shard(folder, 1).read_text()[:-40])


def _other_version(folder):
    lines = _shard(folder, 0).read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "version": 99})
    _shard(folder, 0).write_text("\n".join(lines) + "\n")


def _swap_shards(folder):
    _shard(folder, 0).replace(folder / "spare")
    _shard(folder, 1).replace(_shard(folder, 0))
    (folder / "spare").replace(_shard(folder, 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: _shard(folder, 1).unlink(), "missing"),
        (lambda folder: (folder / "predictions.json").unlink(), "missing"),
        (lambda folder: _shard(folder, 0).write_text(""), "not a prediction file"),
        (_cut_last_line, "its header says"),
        (_half_a_line, "line 5"),
        (_other_version, "version 99"),
        (_swap_shards, "expected"),
    ],
)
def test_damage_is_named(tmp_path, rows, damage, message):
    tiny.write_predictions(tmp_path, rows={TASK: rows})
    damage(tmp_path)
    with pytest.raises(PredictionsError, match=message):
        list(read_all(tmp_path))


def test_one_row_per_example(tmp_path, rows):
    twice = [*rows[:4], dataclasses.replace(rows[3], index=4), *rows[5:]]
    tiny.write_predictions(tmp_path / "twice", rows={TASK: twice})
    with pytest.raises(PredictionsError, match="more than one row"):
        read_task(tmp_path / "twice", task=TASK)
    tiny.write_predictions(tmp_path / "gap", rows={TASK: [*rows[:3], *rows[4:]]})
    with pytest.raises(PredictionsError, match="missing or repeated"):
        read_task(tmp_path / "gap", task=TASK)


def test_shards_of_two_checkpoints_do_not_mix(tmp_path, rows):
    tiny.write_predictions(tmp_path / "a", rows={TASK: rows})
    tiny.write_predictions(tmp_path / "b", rows={TASK: rows}, checkpoint="e" * 64)
    _shard(tmp_path / "b", 1).replace(_shard(tmp_path / "a", 1))
    with pytest.raises(PredictionsError, match="checkpoint"):
        read_task(tmp_path / "a", task=TASK)


def test_an_unwritable_number_is_refused(tmp_path, rows):
    header = None
    tiny.write_predictions(tmp_path, rows={TASK: rows})
    header = read_task(tmp_path, task=TASK).header
    bad = dataclasses.replace(rows[0], logprob=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        write_shard(tmp_path / "other", header=header, rows=[bad])
    assert not list((tmp_path / "other").rglob("*.jsonl"))
