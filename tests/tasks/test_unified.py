"""Stages 2 and 3 against the reference batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import task_golden as golden
from uio2.model.config import INPUT_MODALITIES, TARGET_MODALITIES
from uio2.tasks import audio, image
from uio2.tasks.converter import convert, convert_one, shift_right
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.unified import unify, unify_one
from uio2.tasks.vocabulary import UnifiedVocabulary

RECIPE = RegisterSpec(text_inputs=64, text_targets=32)
EVERYTHING = dataclasses.replace(
    RECIPE, input_modalities=INPUT_MODALITIES, target_modalities=TARGET_MODALITIES, image_input_samples=1.0
)
TARGET = (256, 256)


def test_shift_right_restarts_in_every_segment():
    targets = tf.constant([3, 8, 1, 9, 1, 5, 4, 1, 0, 0])
    positions = tf.constant([0, 1, 2, 0, 1, 0, 1, 2, 0, 0])
    assert shift_right(targets, positions).numpy().tolist() == [0, 3, 8, 0, 9, 0, 5, 4, 0, 0]


@pytest.fixture(scope="module")
def vocabulary() -> UnifiedVocabulary:
    return UnifiedVocabulary.from_file(golden.FOLDER / "tiny_sp.model")


def on_canvas(index, height, width, *, size):
    placement = image.place(tf.constant([height, width], tf.float32), size=size)
    pixels = golden.golden_image(index, height, width)
    return image.render(tf.constant(pixels), placement, size=size), image.pixel_mask(placement, size=size)


def spectrograms():
    return audio.log_mel(audio.cut(tf.constant(golden.golden_waveform())))


def image_input():
    values, mask = on_canvas(0, 480, 640, size=(384, 384))
    return {"image_inputs": values, "image_inputs_mask": mask, "image_inputs_noise": tf.linspace(0.0, 0.9, 576)}


def audio_input():
    values, mask = spectrograms()
    return {"audio_inputs": values[0], "audio_inputs_mask": mask[0]}


def history():
    frames, masks = zip(*(on_canvas(i, 120, 160, size=TARGET) for i in FRAMES), strict=True)
    values, mask = spectrograms()
    order = [0, 1] * 3
    return {
        "image_history_inputs": tf.stack(frames), "image_history_inputs_mask": tf.stack(masks),
        "audio_history_inputs": tf.gather(values, order), "audio_history_inputs_mask": tf.gather(mask, order),
    }  # fmt: skip


def image_target():
    values, mask = on_canvas(1, 640, 480, size=TARGET)
    return {"image_targets": values, "image_targets_mask": mask}


def partial_image_target():
    """Every third code is hidden and counts in the loss; the whole canvas is there."""
    values, _ = on_canvas(0, 480, 640, size=TARGET)
    third = tf.range(1024) % 3 == 0
    return {
        "image_targets": values, "image_targets_mask": tf.fill(TARGET, True),
        "image_targets_loss_mask": third, "image_targets_task_mask": third,
    }  # fmt: skip


def audio_target():
    values, mask = spectrograms()
    return {"audio_targets": values[1], "audio_targets_mask": mask[1]}


CASES = {
    "text_text/eval": (), "text_multi/eval": (),
    "image_text/eval": (image_input,), "image_text/eval576": (image_input,),
    "history/eval": (history,), "audio_text/eval": (audio_input,), "text_image/eval": (image_target,),
    "text_image_partial/eval": (partial_image_target,), "text_audio/eval": (audio_target,),
    "all/eval": (image_input, history, audio_input, image_target, audio_target),
}  # fmt: skip
FRAMES = (20, 21, 20, 21, 20)


def decoded_texts(vocabulary, case):
    """The reference's texts, read back from its tokens."""
    stored = golden.arrays()
    source = vocabulary.decode(stored[f"preproc/{case}/inputs/text/tokens"].tolist())
    targets = stored[f"preproc/{case}/targets/text/targets"]
    segments = stored[f"preproc/{case}/targets/text/segment_ids"]
    return source, [vocabulary.decode(targets[segments == s].tolist()) for s in range(1, segments.max() + 1)]


def check_batch(batch, case):
    stored, expected = golden.arrays(), golden.values()["preproc"][case]["converted"]
    for key, value in batch.items():
        value = value.numpy()
        assert list(value.shape) == expected[key]["shape"], key
        assert str(value.dtype) == expected[key]["dtype"], key
        if f"preproc/{case}/{key}" in stored:
            np.testing.assert_array_equal(value, stored[f"preproc/{case}/{key}"], err_msg=key)
        strided = stored.get(f"preproc/{case}/{key}.ravel()[::s]")
        if strided is not None:
            np.testing.assert_allclose(value.ravel()[:: value.size // 2048][:2048], strided, atol=1e-5, err_msg=key)
        for name, found in (("sum", value), ("abs_sum", np.abs(value))):
            assert found.sum(dtype=np.float64) == pytest.approx(expected[key][name], rel=1e-5, abs=1e-3), key


@golden.needs_golden
@pytest.mark.parametrize("case", CASES)
def test_reference_batches(vocabulary, case):
    source, targets = decoded_texts(vocabulary, case)
    example = {"text_inputs": tf.constant(source), "text_targets": tf.constant(targets)}
    for part in CASES[case]:
        example |= part()
    stage2 = unify_one(example, vocabulary=vocabulary, recipe=EVERYTHING)
    batch = convert_one(stage2, recipe=EVERYTHING)
    assert batch.keys() == golden.values()["preproc"][case]["converted"].keys()
    check_batch(batch, case)
    # A recipe without the other modalities makes the same of what it names, and no more.
    few = convert_one(unify_one(example, vocabulary=vocabulary, recipe=RECIPE), recipe=RECIPE)
    assert {key.rpartition("/")[0] for key in few} == {"inputs/text", "inputs/image", "targets/text"}
    check_batch(few, case)


@golden.needs_golden
def test_long_text_is_cut_and_its_length_kept(vocabulary):
    recipe = RegisterSpec(text_inputs=6, text_targets=4)
    texts = tf.constant(["the dog sits on a table.", "the"])
    batch = {"text_inputs": texts, "text_targets": tf.constant(["a dog", ""])}
    stage2 = unify(batch, vocabulary=vocabulary, recipe=recipe)
    assert stage2["meta/length_inputs"].numpy().tolist() == [len(vocabulary.encode("the dog sits on a table.")) + 1, 2]
    out = convert(stage2, recipe=recipe)
    assert out["inputs/text/tokens"].numpy()[0, -1] == 1
    assert out["inputs/text/mask"].numpy().tolist()[0] == [1] * 6
    assert out["targets/text/targets"].numpy()[1].tolist() == [1, 0, 0, 0]
    assert out["targets/text/mask"].numpy()[1].sum() == 0
