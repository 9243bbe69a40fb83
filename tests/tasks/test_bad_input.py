"""Examples that cannot be used keep their place in the feeds, teach nothing and are counted by reason."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf
from PIL import Image

from tests.tiny import audio as tiny_audio
from tests.tiny import scenes
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import StageContext, StageError
from uio2.tasks import guard, register_stage, registry
from uio2.tasks.converter import convert
from uio2.tasks.eval_feed import count_eval_examples, eval_examples
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import MixtureError, make_mixture
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.unified import unify
from uio2.tasks.vocabulary import UnifiedVocabulary

CAPTIONS, REFEXP, AUDIO = "image_caption_coco_2017", "refcoco_unc", "audio_caption"
RECIPE = RegisterSpec(rates={CAPTIONS: 1.0}, image_size=(64, 64), text_inputs=32, text_targets=32)
NASTY = Path(__file__).parents[3] / "shared/data/nasty"


def picture(number: int, *, side: int = 40) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def captioned(files) -> list[dict]:
    rows = scenes.bare_rows(len(files))
    return [row | {"image": data, "captions": {"num": 1, "id": [n], "text": [f"the digit {n}"]}}
            for n, (row, data) in enumerate(zip(rows, files, strict=True))]  # fmt: skip


def coco(folder, rows, *, tokenizer, features=scenes.COCO):
    path = scenes.write(folder, "coco_all", features, {"train": rows, "validation": rows}, shards=1)
    return make_mixture(RECIPE, datasets={"coco": path}, tokenizer=tokenizer)


def heard(folder, files, *, tokenizer):
    """A mixture of captioned clips: name -> bytes."""
    rows = [{"key": name, "audio": data, "sample_rate": 1, "captions": ["a digit"]} for name, data in files.items()]
    path = scenes.write(folder, "audio_captions", tiny_audio.FEATURES, {"train": rows, "validation": rows}, shards=1)
    recipe = dataclasses.replace(RECIPE, rates={AUDIO: 1.0}, input_modalities=("text", "audio"))
    return make_mixture(recipe, datasets={"audio": path}, tokenizer=tokenizer)


FILES = [picture(n) for n in range(12)]
BROKEN = {0: FILES[0][: len(FILES[0]) // 2], 5: b"", 6: b"<html>404</html>", 11: b"\x89PNG\r\n\x1a\nxx"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer):
    return coco(tmp_path_factory.mktemp("whole"), captioned(FILES), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def broken(tmp_path_factory, tokenizer):
    rows = captioned([BROKEN.get(n, data) for n, data in enumerate(FILES)])
    return coco(tmp_path_factory.mktemp("broken"), rows, tokenizer=tokenizer)


def take(mixture, count, **options):
    feed = Feed(mixture, seed=1)
    return list(itertools.islice(feed.batches(batch_size=4, **options), count)), feed.stats


def test_a_broken_file_keeps_its_place_and_teaches_nothing(whole, broken):
    expected, _ = take(whole, 6)
    found, stats = take(broken, 6)
    blank = 0
    for one, two in zip(expected, found, strict=True):
        for row in range(4):
            if two["targets/text/mask"][row].any():
                for key in one:
                    np.testing.assert_array_equal(one[key][row], two[key][row], err_msg=key)
            else:
                blank += 1
                assert not two["inputs/image/mask"][row].any()
    assert blank == 2 * len(BROKEN)  # two epochs
    assert stats.dropped == {guard.IMAGE: blank}
    assert stats.examples == 24
    assert f"8 of 24 examples dropped: 8 {guard.IMAGE} (first: {CAPTIONS}, record " in stats.text()


def test_restarts_and_hosts_agree_on_broken_files(broken):
    alone, _ = take(broken, 4)
    later, _ = take(broken, 1, start_step=3)
    hosts = [take(broken, 4, num_hosts=2, host=host)[0] for host in (0, 1)]
    for key in alone[3]:
        np.testing.assert_array_equal(alone[3][key], later[0][key], err_msg=key)
        joined = np.concatenate([hosts[0][2][key], hosts[1][2][key]])
        np.testing.assert_array_equal(alone[2][key], joined, err_msg=key)


def test_evaluation_keeps_a_row_for_each_broken_file(whole, broken):
    def rows_of(mixture, **options):
        batches = list(eval_examples(mixture, task=CAPTIONS, batch_size=4, **options))
        rows = [{**row, "reason": why} for b in batches for row, why in zip(b.metadata, b.reasons, strict=True)]
        return rows, np.concatenate([b.batch["inputs/image/mask"] for b in batches])

    expected, _ = rows_of(whole)
    rows, seen = rows_of(broken)
    assert len(rows) == count_eval_examples(broken, task=CAPTIONS) == 12
    for number, (row, good) in enumerate(zip(rows, expected, strict=True)):
        for key in ("example_id", "prompt", "all_targets"):
            assert row[key] == good[key]
        assert seen[number].any() == (number not in BROKEN)
        reason = f"{guard.IMAGE}: {CAPTIONS}, example {number}: "
        assert row["reason"].startswith(reason) if number in BROKEN else not row["reason"]
    assert rows_of(broken, start=6, limit=12)[0] == rows[6:12]


def test_nothing_but_broken_files_is_an_error(tmp_path, tokenizer):
    mixture = coco(tmp_path, captioned([b"no image"] * 6), tokenizer=tokenizer)
    with pytest.raises(MixtureError, match=rf"{CAPTIONS}.*none of \d+ records in a row.*uio2 tasks check"):
        take(mixture, 1)


@pytest.mark.parametrize("training", [False, True])
def test_seqio_leaves_broken_files_out_and_logs_how_many(broken, tokenizer, caplog, training):
    folders = {name: data.directory for name, data in broken.datasets.items()}
    registry.register(RECIPE, datasets=folders, tokenizer=tokenizer)
    lengths = {"inputs/text/tokens": 32, "targets/text/tokens": 32, "is_training": training}
    task = seqio.get_mixture_or_task(CAPTIONS)
    with caplog.at_level(logging.WARNING, logger="uio2"):
        found = list(task.get_dataset(sequence_length=lengths, split="train", shuffle=False).as_numpy_iterator())
    assert [ex["meta/image_id"] for ex in found] == [n for n in range(len(FILES)) if n not in BROKEN]
    assert caplog.messages[-1].startswith(f"task {CAPTIONS}: {len(BROKEN)} examples left out so far")


def register(mixture, folder, *, tokenizer, spec):
    inputs = {"tokenizer": Artifact("tokenizer", "t", "1", str(Path(tokenizer).parent), "t")}
    for name, data in mixture.datasets.items():
        place = data.directory
        inputs[name] = Artifact("dataset", name, "1", str(place.parent.parent), name,
                                stats={"tfds_dir": f"{place.parent.name}/{place.name}"})  # fmt: skip
    for name in ("out", "work"):
        (folder / name).mkdir()
    context = StageContext(inputs, folder / "out", folder / "work", lambda *_: None, lambda *_: None)
    return register_stage.run(spec, context)


def test_register_counts_what_it_drops_and_refuses_when_that_is_most(broken, tmp_path, tokenizer, capsys):
    stats = register(broken, tmp_path, tokenizer=tokenizer, spec=dataclasses.replace(RECIPE, check_examples=12))
    assert stats["training_sample"] == {"examples": 12, "dropped": {guard.IMAGE: 4}}
    assert stats["unusable"] == {CAPTIONS: {guard.IMAGE: 4}}
    assert json.loads((tmp_path / "out/mixture.json").read_text())["training_sample"] == stats["training_sample"]
    assert f"{CAPTIONS}, example 6" in capsys.readouterr().out
    (tmp_path / "again").mkdir()
    of_images = dataclasses.replace(RECIPE, target_modalities=("image",))
    with pytest.raises(StageError, match=rf"20 of 20 examples dropped.* {guard.NO_TARGET}.*target_modalities"):
        register(broken, tmp_path / "again", tokenizer=tokenizer, spec=of_images)


def test_boxes_beside_the_image_are_passed_over_and_others_are_cut(tmp_path, tokenizer):
    boxes = {
        "inverted": (0.8, 0.1, 0.2, 0.9),
        "beside": (1.2, 0.1, 1.5, 0.5),
        "above": (-0.5, 0.1, -0.2, 0.5),
        "nan": (np.nan, 0.1, 0.5, 0.5),
        "endless": (0.25, 0.5, np.inf, np.inf),
        "over": (-0.5, 0.25, 0.5, 2.0),
    }
    anything = scenes.F.Tensor(shape=(4,), dtype=np.float32)
    objects = scenes.REFCOCO["objects"].feature
    features = scenes.F.FeaturesDict({**scenes.REFCOCO, "objects": scenes.F.Sequence({**objects, "bbox": anything})})
    rows = [{"image": picture(n), "image/id": n, "objects": [
        {"area": 1, "bbox": np.array(box, np.float32), "id": n, "label": 0, "refexp": [{"refexp_id": n, "raw": name}]}
    ]} for n, (name, box) in enumerate(boxes.items())]  # fmt: skip
    path = scenes.write(tmp_path, "ref_coco", features, {"train": rows, "validation": rows}, shards=1)
    recipe = dataclasses.replace(RECIPE, rates={REFEXP: 1.0})
    mixture = make_mixture(recipe, datasets={"refcoco": path}, tokenizer=tokenizer)
    (batch,) = eval_examples(mixture, task=REFEXP, batch_size=2)
    assert [row["prompt"].rpartition(": ")[2] for row in batch.metadata] == ["endless", "over"]
    assert [row["box"] for row in batch.metadata] == [[10.0, 20.0, 40.0, 40.0], [0.0, 10.0, 20.0, 40.0]]
    batches, stats = take(mixture, 2)
    assert (batches[0]["targets/text/mask"].sum(axis=1) == 5).all()
    assert not stats.dropped


def test_texts_that_are_no_utf8_are_read(tmp_path, tokenizer):
    rows = captioned(FILES[:3])
    for row, text in zip(rows, (b"caf\xe9 red", b"\xff\xfe the digit", b"a \xed\xa0\xbd digit"), strict=True):
        row["captions"]["text"] = [text, b" \t\n", b""]
    mixture = coco(tmp_path, rows, tokenizer=tokenizer)
    assert mixture.counts(CAPTIONS, "train").tolist() == [1, 1, 1]
    batches, stats = take(mixture, 2)
    assert not stats.dropped
    vocabulary = UnifiedVocabulary.from_file(tokenizer)
    texts = {
        vocabulary.decode([t for t in row.tolist() if t > 1]) for b in batches for row in b["targets/text/targets"]
    }
    assert any("red" in text for text in texts)
    (batch,) = eval_examples(mixture, task=CAPTIONS, batch_size=3)
    json.dumps(batch.metadata).encode()
    assert all(row["target"] in row["all_targets"] for row in batch.metadata)


def test_odd_clips_are_heard_and_broken_ones_dropped(tmp_path, tokenizer):
    clips = {"silent": np.zeros(8000), "one": np.ones(1), "none": np.zeros(0), "loud": np.tile([0.5, -0.5], 4000)}
    files = {name: tiny_audio.dtmf.wav_bytes(values.astype(np.float32)) for name, values in clips.items()}
    files |= {"cut": files["loud"][:30], "text": b"not a sound", "empty": b""}
    mixture = heard(tmp_path, files, tokenizer=tokenizer)
    (batch,) = eval_examples(mixture, task=AUDIO, batch_size=len(files))
    audible = dict(zip(files, batch.batch["inputs/audio/mask"].any(axis=1).tolist(), strict=True))
    # A single sample is less than half a patch, and so no token.
    assert audible == dict.fromkeys(files, False) | {"loud": True}
    reasons = {name: reason.split(":")[0] for name, reason in zip(files, batch.reasons, strict=True)}
    assert reasons == dict.fromkeys(files, "") | dict.fromkeys(("cut", "text", "empty"), guard.AUDIO)
    assert all(np.isfinite(value).all() for value in batch.batch.values())
    _, stats = take(mixture, 7)
    assert stats.dropped == {guard.AUDIO: 12}
    assert "not a WAV file" in stats.text()


def test_a_target_of_nothing_but_eos_is_named(tokenizer):
    texts = {"text_inputs": tf.constant(["a", "b", "c"]), "text_targets": tf.constant(["the", "", "red"]),
             guard.REASON: tf.constant(["", "", "failed: x"])}  # fmt: skip
    recipe = dataclasses.replace(RECIPE, input_modalities=("text",))
    batch = convert(unify(texts, vocabulary=UnifiedVocabulary.from_file(tokenizer), recipe=recipe), recipe=recipe)
    assert batch[guard.REASON].numpy().tolist() == [b"", guard.NO_TARGET.encode(), b"failed: x"]
    assert batch["targets/text/mask"].numpy().any(axis=1).tolist() == [True, False, True]


@pytest.mark.skipif(not NASTY.is_dir(), reason="the folder of broken files does not lie beside the checkout")
def test_no_broken_file_of_the_collection_stops_a_feed(tmp_path, tokenizer):
    # That one does decode, in seconds and 2 GB.
    paths = sorted(p for p in (NASTY / "images").iterdir() if p.name != "bomb_20000x20000.png")
    mixture = coco(tmp_path, captioned([p.read_bytes() for p in paths]), tokenizer=tokenizer)
    found = [reason for b in eval_examples(mixture, task=CAPTIONS, batch_size=16) for reason in b.reasons]
    reasons = dict(zip((path.name for path in paths), found, strict=True))
    assert not any(reasons[name] for name in ("1x4000.png", "4000x1.jpg", "no_extension", "coco_progressive.jpg"))
    assert all(reasons[name] for name in ("html_404.jpg", "zero_byte.jpg", "broken.png", "claims_0x0.png"))
    _, stats = take(mixture, len(paths) // 4)
    assert set(stats.dropped) == {guard.IMAGE}
    assert stats.examples > 1.5 * stats.dropped.total() > 0


@pytest.mark.skipif(not NASTY.is_dir(), reason="the folder of broken files does not lie beside the checkout")
def test_no_broken_clip_of_the_collection_stops_a_feed(tmp_path, tokenizer):
    paths = sorted((NASTY / "audio").iterdir())
    mixture = heard(tmp_path, {path.name: path.read_bytes() for path in paths}, tokenizer=tokenizer)
    batches = list(eval_examples(mixture, task=AUDIO, batch_size=8))
    reasons = dict(zip((path.name for path in paths), (r for b in batches for r in b.reasons), strict=True))
    assert not any(reasons[name] for name in ("almost_silent.wav", "signed_24bit.wav", "six_channels.wav"))
    assert all(reasons[name] for name in ("text.wav", "zero_byte.wav", "zero_rate.wav", "testing.m4a"))
    batches, stats = take(mixture, len(paths) // 4)
    assert set(stats.dropped) == {guard.AUDIO}
    assert all(np.isfinite(value).all() for batch in batches for value in batch.values())
