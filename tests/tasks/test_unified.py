"""Stages 2 and 3 against the reference batches."""

from __future__ import annotations

import numpy as np
import pytest
import task_golden as golden
import tensorflow as tf

from uio2.tasks import image
from uio2.tasks.converter import convert, convert_one, shift_right
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.unified import unify, unify_one
from uio2.tasks.vocabulary import UnifiedVocabulary

RECIPE = RegisterSpec(text_inputs=64, text_targets=32)


def test_shift_right_restarts_in_every_segment():
    targets = tf.constant([3, 8, 1, 9, 1, 5, 4, 1, 0, 0])
    positions = tf.constant([0, 1, 2, 0, 1, 0, 1, 2, 0, 0])
    assert shift_right(targets, positions).numpy().tolist() == [0, 3, 8, 0, 9, 0, 5, 4, 0, 0]


@pytest.fixture(scope="module")
def vocabulary() -> UnifiedVocabulary:
    return UnifiedVocabulary.from_file(golden.FOLDER / "tiny_sp.model")


def on_canvas():
    pixels = golden.golden_image(0, 480, 640)
    placement = image.place(tf.constant([480.0, 640.0]), size=(384, 384))
    return {
        "image_inputs": image.render(tf.constant(pixels), placement, size=(384, 384)),
        "image_inputs_mask": image.pixel_mask(placement, size=(384, 384)),
    }


def decoded_texts(vocabulary, case):
    """The reference's texts, read back from its tokens."""
    stored = golden.arrays()
    source = vocabulary.decode(stored[f"preproc/{case}/inputs/text/tokens"].tolist())
    targets = stored[f"preproc/{case}/targets/text/targets"]
    segments = stored[f"preproc/{case}/targets/text/segment_ids"]
    return source, [vocabulary.decode(targets[segments == s].tolist()) for s in range(1, segments.max() + 1)]


@golden.needs_golden
@pytest.mark.parametrize("case", ["text_text/eval", "text_multi/eval", "image_text/eval", "text_image/eval"])
def test_reference_batches(vocabulary, case):
    source, targets = decoded_texts(vocabulary, case)
    example = {"text_inputs": tf.constant(source), "text_targets": tf.constant(targets)}
    if case.startswith("image"):
        example |= on_canvas()
    stage2 = unify_one(example, vocabulary=vocabulary, recipe=RECIPE)
    batch = convert_one(stage2, recipe=RECIPE)
    expected = golden.values()["preproc"][case]["converted"]
    for key, value in batch.items():
        stored = golden.arrays().get(f"preproc/{case}/{key}")
        if stored is not None:
            np.testing.assert_array_equal(value, stored, err_msg=key)
        else:
            assert list(value.shape) == expected[key]["shape"]
            assert float(tf.reduce_sum(tf.cast(value, tf.float64))) == pytest.approx(expected[key]["sum"], rel=1e-5)


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
