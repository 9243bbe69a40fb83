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
    ModelProto,
    UnifiedVocabulary,
    VocabularyError,
    extend_model,
    tokenizer_mismatch,
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


def test_special_pieces_in_a_text_are_tokens_where_a_word_starts(small_base):
    vocabulary = UnifiedVocabulary(small_base)
    said, attached = "the digit in <image_input> is <extra_id_3>", "the digit is<extra_id_3>"
    assert {vocabulary.base_size + 1216, vocabulary.base_size + 1196} < set(vocabulary.encode(said))
    assert max(vocabulary.encode(attached)) < vocabulary.base_size
    assert [vocabulary.decode(vocabulary.encode(text)) for text in (said, attached)] == [said, attached]


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


def resized(base: bytes, *, pieces: int, letters: str = "") -> UnifiedVocabulary:
    """A base model with invented pieces up to a size; `letters` in place of the names of its byte pieces."""
    model = ModelProto.FromString(base)
    if letters:
        for n, piece in enumerate(p for p in model.pieces if p.type == p.BYTE):
            piece.piece, piece.type = f"{letters}{n}", piece.NORMAL
        model.trainer_spec.byte_fallback = False
    for n in range(pieces - len(model.pieces)):
        model.pieces.add(piece=f"invented{n}", score=-1000.0 - n)
    return UnifiedVocabulary(model.SerializeToString(), source="given.model")


def test_published_checkpoints_take_no_tokenizer_of_another_size_or_kind(small_base):
    assert tokenizer_mismatch(resized(small_base, pieces=32_000), rows=33_280) is None
    for pieces in (len(ModelProto.FromString(small_base).pieces), 31_999, 32_001):
        wrong = tokenizer_mismatch(resized(small_base, pieces=pieces), rows=33_280)
        assert wrong.startswith(f"given.model: a base model of {pieces} pieces, expected 32000")
        assert "LLaMA" in wrong
    wrong = tokenizer_mismatch(resized(small_base, pieces=32_000, letters="q"), rows=33_280)
    assert "piece 3 is 'q0', expected '<0x00>'" in wrong


def test_other_models_need_a_row_for_each_piece(small_base):
    vocabulary = resized(small_base, pieces=400)
    assert tokenizer_mismatch(vocabulary, rows=2048) is None
    assert "1625 pieces" in tokenizer_mismatch(vocabulary, rows=1600)
    assert "expected 1664" in tokenizer_mismatch(vocabulary, rows=1600)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"version": "1.0", "model": {"type": "BPE"}}', "tokenizer.json"),
        (b"IQ== 0\nIg== 1\nIw== 2\n", "LLaMA 3"),
        (b"\xff\xff no model", "32000 pieces"),
    ],
)
def test_files_that_are_mistaken_for_a_tokenizer_are_told_apart(tmp_path, data, kind):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(VocabularyError, match=rf"tokenizer\.model: not a SentencePiece model.*{kind}"):
        UnifiedVocabulary.from_file(path)
