"""Mixtures of tasks with different modalities, from stored bytes to the logits of a real model."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
from flax import nnx

from tests.model import tiny
from tests.tiny import audio as tiny_audio
from uio2.model import ModelConfig, multimodal_loss
from uio2.pipeline.stage import StageError
from uio2.tasks.align import align
from uio2.tasks.converter import UnifiedConverter, convert
from uio2.tasks.eval_feed import eval_examples
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import MixtureError, make_mixture
from uio2.tasks.registry import register
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.unified import unify

AUDIO, CAPTIONS = "audio_caption", "image_caption_coco_2017"
RECIPE = RegisterSpec(
    rates={AUDIO: 1.0, CAPTIONS: 1.0}, image_size=(96, 96), text_inputs=32, text_targets=32,
    input_modalities=("text", "image", "audio", "audio_history"), num_audio_segments=2,
)  # fmt: skip
SMALL_VIT = {"emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 64, "num_layers": 2}
CONFIG = ModelConfig.preset("digits").with_overrides({
    "image_size": (96, 96), "image_patch_size": 16, "emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 64,
    "num_encoder_layers": 1, "num_decoder_layers": 1, "encoder_max_text_length": 32, "decoder_max_text_length": 32,
    "text_vocab_size": 1664, "image_vit": {**SMALL_VIT, "num_positions": 37}, "audio_vit": SMALL_VIT,
    "audio_resampler": {**SMALL_VIT, "num_latents": 4, "max_frames": 2}, "input_modalities": RECIPE.input_modalities,
})  # fmt: skip


@pytest.fixture(scope="module")
def mixture(datasets, tokenizer, tmp_path_factory):
    clips = tiny_audio.build(tmp_path_factory.mktemp("clips"), seconds=10.5)
    return make_mixture(RECIPE, datasets={"coco": datasets["coco"], "audio": clips}, tokenizer=tokenizer)


def first_batch(mixture, size=8):
    return next(itertools.islice(Feed(mixture, seed=0).batches(batch_size=size), 1))


def test_a_mixed_batch_holds_what_each_task_has_and_a_model_eats_it(mixture):
    mixture.check_model(CONFIG)
    batch = first_batch(mixture, 16)
    assert batch["inputs/audio_history/input"].shape == (16, 2, 128, 256)
    assert batch["inputs/audio/input"].shape == (16, 128, 256)
    heard, seen = batch["inputs/audio/pos_ids"].any(axis=1), batch["inputs/image/mask"].any(axis=1)
    np.testing.assert_array_equal(heard, ~seen)
    assert 4 <= heard.sum() <= 12
    for key in ("inputs/audio/input", "inputs/audio_history/input", "inputs/audio_history/pos_ids"):
        assert not batch[key][seen].any()
        assert batch[key][heard].any(axis=tuple(range(1, batch[key].ndim))).all()
    assert not batch["inputs/image/input"][heard].any()
    assert batch["inputs/audio_history/mask"][heard].all()
    graph, state = nnx.split(tiny.make(CONFIG))
    loss = jax.jit(lambda s, b: multimodal_loss(nnx.merge(graph, s)(b))[0])(state, batch)
    assert np.isfinite(loss)


def test_a_task_alone_gives_the_same_rows_as_in_the_mixture(mixture):
    name = AUDIO
    alone = next(eval_examples(mixture, task=name, batch_size=3))
    assert {row["example_id"] for row in alone.metadata} == {f"train/{n}.wav/0" for n in range(3)}
    assert len({row["image_id"] for row in alone.metadata}) == 3
    assert alone.metadata[0]["box"] is None
    assert alone.batch["inputs/audio/mask"].any(axis=1).all()
    assert not alone.batch["inputs/image/input"].any()
    assert alone.batch.keys() == first_batch(mixture).keys() - {"task"}  # a training batch has rows of many


def test_modalities_the_recipe_does_not_name_are_left_out(mixture):
    few = dataclasses.replace(RECIPE, input_modalities=("text", "audio"), rates={AUDIO: 1.0})
    batch = first_batch(dataclasses.replace(mixture, recipe=few))
    assert {key.split("/")[1] for key in batch if "/" in key} == {"text", "audio"}
    assert batch["inputs/audio/mask"].any(axis=1).all()


def test_seqio_gives_the_same_with_all_modalities(mixture, tokenizer):
    name = AUDIO
    stored = {key: data.directory for key, data in mixture.datasets.items()}
    again = register(RECIPE, datasets=stored, tokenizer=tokenizer)
    ds = seqio.get_mixture_or_task(name).get_dataset(sequence_length=None, split="validation", shuffle=False)
    ds = UnifiedConverter(recipe=RECIPE)(ds, UnifiedConverter.lengths(RECIPE))
    ours = next(eval_examples(again, task=name, batch_size=3)).batch
    for row, example in enumerate(ds.as_numpy_iterator()):
        assert example.keys() == ours.keys()
        for key, value in example.items():
            np.testing.assert_array_equal(value, ours[key][row], err_msg=key)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_modalities": ("text", "image_history")}, "image_history"),
        ({"target_modalities": ("text", "image")}, "target_modalities"),
        ({"num_audio_segments": 3}, "num_audio_segments is 3"),
        ({"audio_patch_size": 32}, "audio_patch_size"),
        ({"image_size": (64, 64)}, "image_size"),
        ({"text_inputs": 64}, "text_inputs is 64"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_setting(mixture, change, named):
    other = dataclasses.replace(mixture, recipe=dataclasses.replace(RECIPE, **change))
    with pytest.raises(MixtureError, match=named):
        other.check_model(CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"input_modalities": ("image",)},
        {"target_modalities": ()},
        {"target_modalities": ("video",)},
        {"image_input_samples": 0.0},
        {"image_input_samples": 37},
        {"image_history_size": (250, 256)},
        {"num_frames": 0},
        {"resize": "best"},
    ],
)
def test_settings_that_cannot_work_are_refused(change):
    with pytest.raises(StageError, match=rf"RegisterSpec\.{next(iter(change))}"):
        dataclasses.replace(RECIPE, **change)


def test_sampled_patches_show_picture_first_and_repeat(mixture):
    recipe = dataclasses.replace(
        RECIPE, image_input_samples=0.5, rates={CAPTIONS: 1.0}, input_modalities=("text", "image")
    )
    sampled = dataclasses.replace(mixture, recipe=recipe)
    one, two = first_batch(sampled), first_batch(sampled)
    assert one["inputs/image/input"].shape == (8, 18, 768)
    np.testing.assert_array_equal(one["inputs/image/pos_ids"], two["inputs/image/pos_ids"])
    assert len({tuple(row) for row in one["inputs/image/pos_ids"]}) == 8
    whole = first_batch(dataclasses.replace(mixture, recipe=dataclasses.replace(recipe, image_input_samples=None)))
    for row in range(8):
        chosen = one["inputs/image/pos_ids"][row]
        assert len(set(chosen)) == 18
        np.testing.assert_array_equal(one["inputs/image/input"][row], whole["inputs/image/input"][row][chosen])


def test_streams_of_different_tasks_are_mixed_without_loss(mixture):
    """Several text targets beside one, a code mask that one task has, a target picture that the other lacks."""
    recipe = dataclasses.replace(
        RECIPE, input_modalities=("text",), target_modalities=("text", "image"), image_target_size=(32, 32)
    )
    canvas = {"image_targets": tf.fill([32, 32, 3], 0.25), "image_targets_mask": tf.fill([32, 32], True)}
    streams = [
        {"text_inputs": tf.constant("a"), "text_targets": tf.constant(["the digit", "number"])},
        {"text_inputs": tf.constant("b"), "text_targets": tf.constant(""), **canvas},
        {"text_inputs": tf.constant("c"), **canvas, "image_targets_loss_mask": tf.range(16) < 4,
         "image_targets_task_mask": tf.range(16) < 4},
    ]  # fmt: skip
    parts = align([tf.data.Dataset.from_tensors(example) for example in streams])
    merged = tf.data.Dataset.choose_from_datasets(parts, tf.data.Dataset.range(3))
    (stage1,) = merged.ragged_batch(3)
    batch = convert(unify(stage1, vocabulary=mixture.vocabulary, recipe=recipe), recipe=recipe)
    assert batch["targets/text/segment_ids"].numpy().max(axis=1).tolist() == [2, 1, 1]
    assert batch["targets/text/mask"].numpy().any(axis=1).tolist() == [True, False, False]
    assert batch["targets/image/mask"].numpy().sum(axis=1).tolist() == [0, 16, 16]
    assert batch["targets/image/loss_mask"].numpy().sum(axis=1).tolist() == [0, 16, 4]
    assert batch["targets/image/task_mask"].numpy().sum(axis=1).tolist() == [0, 0, 4]
    assert batch["targets/image/image"].numpy().min(axis=(1, 2, 3)).tolist() == [0.0, -0.5, -0.5]


def test_answer_options_are_rows_that_end_with_eos(mixture):
    example = {
        "text_inputs": tf.constant(["a", "b"]), "text_targets": tf.constant(["the", "the"]),
        "text_choices": tf.ragged.constant([["the digit", "a"], ["number"]]),
    }  # fmt: skip
    recipe = dataclasses.replace(RECIPE, input_modalities=("text",))
    tokens = convert(unify(example, vocabulary=mixture.vocabulary, recipe=recipe), recipe=recipe)["choices/tokens"]
    assert tokens.shape[:2] == (2, 2)
    assert mixture.vocabulary.decode(tokens.numpy()[0, 0].tolist()) == "the digit"
    assert ((tokens.numpy() == 1).sum(axis=-1)).tolist() == [[1, 1], [1, 0]]
