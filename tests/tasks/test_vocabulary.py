"""Exact ids of the extended vocabulary, on both paths."""

from __future__ import annotations

import io

import numpy as np
import pytest
import sentencepiece

from tests.tasks import task_golden as golden
from uio2.tasks import locations
from uio2.tasks.vocabulary import (
    NUM_SPECIAL,
    UnifiedVocabulary,
    VocabularyError,
    extend_model,
)


@pytest.fixture(scope="module")
def small_base() -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red digit", "the blue digit on the left", "how many digits are there"] * 20),
        model_writer=out, vocab_size=300, model_type="bpe", byte_fallback=True, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1, hard_vocab_limit=False,
        minloglevel=2)  # fmt: skip
    return out.getvalue()


def test_special_pieces_follow_any_base_model(small_base):
    vocabulary = UnifiedVocabulary(small_base)
    n = vocabulary.base_size
    assert vocabulary.vocab_size == n + 1225
    assert vocabulary.padded_size % 128 == 0
    assert [vocabulary.piece(i) for i in (0, 1, 2)] == ["<s>", "</s>", "<unk>"]
    text = "[Text] [S] <extra_id_1199> <extra_id_200> <image_input> [Audio] [R]"
    assert vocabulary.encode(text) == [n + 1218, n, n + 999, n + 1216, n + 1224]
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_both_paths_agree_and_round_trip(small_base):
    vocabulary = UnifiedVocabulary(small_base)
    for text in ("the red digit", "  two  spaces", "héllo ☃ 42", "", "<extra_id_7> x"):
        ids = vocabulary.encode(text)
        assert vocabulary.encode_tf(text).numpy().tolist() == ids
        assert vocabulary.decode([*ids, 1, 5, 6]) == text
    assert vocabulary.decode([vocabulary.vocab_size + 9]).strip() == "\u2047"


def test_extending_twice_or_garbage_is_refused(small_base, tmp_path):
    with pytest.raises(VocabularyError, match="give the base model"):
        extend_model(extend_model(small_base))
    with pytest.raises(VocabularyError, match="not a SentencePiece model"):
        extend_model(b"\xff\xff not a model")
    with pytest.raises(VocabularyError, match="no such tokenizer"):
        UnifiedVocabulary.from_file(tmp_path / "absent.model")


def test_location_tokens_round_trip_for_any_base_size(small_base):
    vocabulary = UnifiedVocabulary(small_base)
    values = np.linspace(0, 1, 37)
    ids = vocabulary.encode(locations.values_to_text(values))
    assert len(ids) == len(values)
    back = locations.tokens_to_values([*ids, 1, ids[0]], base_size=vocabulary.base_size)
    np.testing.assert_allclose(back, values, atol=1 / 999)


@golden.needs_golden
def test_reference_pieces_and_encodings():
    vocabulary = UnifiedVocabulary.from_file(golden.FOLDER / "tiny_sp.model")
    expected = golden.values()
    assert vocabulary.vocab_size == expected["vocab"]["vocab_size"] == vocabulary.base_size + NUM_SPECIAL
    assert {str(k): vocabulary.piece(int(k)) for k in expected["vocab"]["pieces"]} == expected["vocab"]["pieces"]
    for text, ids in expected["encode"].items():
        assert vocabulary.encode(text) == ids["py"], text
        assert vocabulary.encode_tf(text).numpy().tolist() == ids["tf"], text
    for case in expected["decode"]:
        assert vocabulary.decode(case["ids"]) == case["text"]
        assert vocabulary.decode_tf(np.array(case["ids"], np.int32)).numpy().decode() == case["text_tf"]


@golden.needs_golden
def test_reference_location_texts():
    expected = golden.values()
    for value, text in expected["boxes_to_str"]["values_to_tokens"].items():
        assert locations.value_to_text(float(value)) == text
    case = expected["tokens_to_values"]
    assert locations.tokens_to_values(case["tokens"], base_size=32000) == pytest.approx(case["values"])
    for case in expected["parse_boxes"]:
        if case["use_label"]:
            assert locations.parse_labelled_boxes(case["text"], size=(384, 384)) == (case["boxes"], case["labels"])
        else:
            assert locations.parse_boxes(case["text"], size=(384, 384)) == case["boxes"]
    for case in expected["parse_points"]:
        points = locations.parse_labelled_points(case["text"], size=(384, 384))
        assert points == (case["points"], case["labels"])
