"""The tokenizer and register stages, and the tasks through seqio."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import seqio

from tests.tiny import scenes
from uio2.model import ModelConfig
from uio2.pipeline.artifact import Artifact, digest_directory
from uio2.pipeline.stage import StageContext, StageError
from uio2.tasks import register_stage, tokenizer_stage
from uio2.tasks.converter import UnifiedConverter
from uio2.tasks.eval_feed import eval_examples
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import MixtureError, open_mixture
from uio2.tasks.registry import register
from uio2.tasks.specs import RegisterSpec, TokenizerSpec
from uio2.tasks.vocabulary import UnifiedVocabulary

RECIPE = RegisterSpec(image_size=(96, 96), image_patch_size=16, text_inputs=48, text_targets=48)


def dataset_artifact(path):
    return Artifact("dataset", path.parent.name, "1", str(path.parent.parent), "digest-" + path.parent.name,
                    stats={"tfds_dir": f"{path.parent.name}/1.0.0"})  # fmt: skip


def context(folder, inputs):
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True)
    seen = []
    return StageContext(inputs, folder / "out", folder / "work", lambda *a: seen.append(a), lambda *a: None)


@pytest.fixture(scope="module")
def inputs(datasets):
    return {name: dataset_artifact(path) for name, path in datasets.items()}


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    where = context(tmp_path_factory.mktemp("tokenizer_stage"), inputs)
    stats = tokenizer_stage.run(TokenizerSpec(vocab_size=360), where)
    return where.out, stats


@pytest.fixture(scope="module")
def registered(inputs, trained, tmp_path_factory):
    tokenizer = Artifact("tokenizer", "tokenizer", "1", str(trained[0]), "t")
    where = context(tmp_path_factory.mktemp("register_stage"), inputs | {"tokenizer": tokenizer})
    stats = register_stage.run(RECIPE, where)
    return where.out, stats


def test_tokenizer_covers_the_text_and_repeats_byte_for_byte(inputs, trained, tmp_path):
    out, stats = trained
    vocabulary = UnifiedVocabulary.from_file(out)
    assert stats == json.loads((out / "meta.json").read_text())
    assert stats["base_size"] == vocabulary.base_size == 360
    assert stats["padded_size"] == vocabulary.padded_size == 1664
    text = "Find the region described by: the red digit"
    assert len(vocabulary.encode(text)) < 0.7 * len(text)
    again = context(tmp_path, inputs)
    tokenizer_stage.run(TokenizerSpec(vocab_size=360), again)
    assert digest_directory(again.out) == digest_directory(out)


def test_register_publishes_counts_lengths_and_examples_without_places(registered, datasets):
    out, stats = registered
    text = (out / "mixture.json").read_text()
    assert str(datasets["coco"].parent) not in text
    assert "/tmp" not in text
    values = json.loads(text)
    assert values["datasets"] == {"coco": "digest-coco_all", "refcoco": "digest-ref_coco"}
    for name, task in values["tasks"].items():
        assert task["splits"]["train"]["examples"] >= task["splits"]["train"]["records"] > 0
        assert task["lengths"]["inputs"]["cut"] == 0
        assert 2 <= task["lengths"]["targets"]["max"] <= 48
        assert task["example"]["prompt"].startswith("[Text] [S] ")
        assert stats["tasks"][name] == task["splits"]
    assert values["tasks"]["refcoco_unc"]["lengths"]["targets"]["max"] == 5


def test_published_mixture_feeds_like_a_fresh_one(registered, trained, datasets):
    published = open_mixture(registered[0], datasets=datasets, tokenizer=trained[0])
    fresh = register(RECIPE, datasets=datasets, tokenizer=trained[0])
    pairs = (itertools.islice(Feed(m, seed=1).batches(batch_size=4), 2) for m in (published, fresh))
    for one, two in zip(*pairs, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])


def test_wrong_tokenizer_or_model_is_refused(registered, trained, datasets, tokenizer):
    with pytest.raises(MixtureError, match="another tokenizer"):
        open_mixture(registered[0], datasets=datasets, tokenizer=tokenizer)
    mixture = open_mixture(registered[0], datasets=datasets, tokenizer=trained[0])
    good = dataclasses.replace(
        ModelConfig.preset("digits"), image_size=(96, 96), image_patch_size=16, text_vocab_size=1664,
        encoder_max_text_length=48, decoder_max_text_length=48,
    )  # fmt: skip
    mixture.check_model(good)
    for change in ({"image_size": (64, 64)}, {"text_vocab_size": 128}, {"decoder_max_text_length": 4}):
        with pytest.raises(MixtureError):
            mixture.check_model(dataclasses.replace(good, **change))


def test_empty_task_is_refused_by_name(trained, tmp_path):
    rows = scenes.bare_rows(3)
    path = scenes.write(tmp_path / "data", "coco_all", scenes.COCO, {"train": rows, "validation": rows})
    tokenizer = Artifact("tokenizer", "tokenizer", "1", str(trained[0]), "t")
    where = context(tmp_path / "stage", {"coco": dataset_artifact(path), "tokenizer": tokenizer})
    with pytest.raises(StageError, match=r"vqa_coco_2017.*no example in split 'train'"):
        register_stage.run(dataclasses.replace(RECIPE, rates={"vqa_coco_2017": 1.0}), where)
    assert not (where.out / "mixture.json").exists()


# One that asks about each of several objects, one that takes the first of several texts.
@pytest.mark.parametrize("task", ["box_classification_coco_2017", "image_caption_coco_2017"])
def test_seqio_gives_the_evaluation_feed(datasets, tokenizer, task):
    mixture = register(RECIPE, datasets=datasets, tokenizer=tokenizer)
    register(RECIPE, datasets=datasets, tokenizer=tokenizer)
    ds = seqio.get_mixture_or_task(task).get_dataset(sequence_length=None, split="validation", shuffle=False)
    ds = UnifiedConverter(recipe=RECIPE)(ds, UnifiedConverter.lengths(RECIPE))
    ours = next(iter(eval_examples(mixture, task=task, batch_size=6))).batch
    for row, example in enumerate(ds.take(6).as_numpy_iterator()):
        assert example.keys() == ours.keys()
        for key, value in example.items():
            np.testing.assert_array_equal(value, ours[key][row], err_msg=key)


def test_seqio_mixture_gives_training_examples(datasets, tokenizer):
    recipe = dataclasses.replace(RECIPE, rates={"vqa_coco_2017": 1.0, "refcoco_unc": 1.0})
    mixture = register(recipe, datasets=datasets, tokenizer=tokenizer)
    lengths = {"inputs/text/tokens": 48, "targets/text/tokens": 48, "is_training": True}
    ds = seqio.get_mixture_or_task("uio2").get_dataset(
        sequence_length=lengths, split="train", shuffle=True, seed=5, num_epochs=None
    )
    examples = list(ds.take(24).as_numpy_iterator())
    located = [sum(1 for t in ex["targets/text/tokens"] if t >= mixture.vocabulary.base_size) for ex in examples]
    assert set(located) == {0, 4}
    assert len({tuple(ex["inputs/text/tokens"]) for ex in examples}) > 12
