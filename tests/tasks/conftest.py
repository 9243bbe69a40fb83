"""Datasets, a tokenizer and a mixture, made once per session from a few scenes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import sentencepiece

from tests.tiny import scenes
from uio2.tasks.mixture import Mixture, make_mixture
from uio2.tasks.specs import RegisterSpec

RECIPE = RegisterSpec(image_size=(96, 96), image_patch_size=16, text_inputs=48, text_targets=48)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory) -> dict[str, Path]:
    return scenes.build(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Path:
    out = io.BytesIO()
    lines = ["a red digit and a blue digit", "what is the colour of the white yellow green", "number version"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=320, model_type="bpe", byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1,
        hard_vocab_limit=False, minloglevel=2)  # fmt: skip
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(out.getvalue())
    return path


@pytest.fixture(scope="session")
def mixture(datasets, tokenizer) -> Mixture:
    return make_mixture(RECIPE, datasets=datasets, tokenizer=tokenizer)
