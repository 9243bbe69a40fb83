"""Instructions: the record's own wording, line by line, and records that ask or answer nothing."""

from __future__ import annotations

import pytest

from tests.tasks import made
from tests.tiny import texts
from uio2.tasks.datasets import StoredDataset
from uio2.tasks.tokenizer_stage import dataset_lines


@pytest.fixture(scope="module")
def mixture(tokenizer, tmp_path_factory):
    return made.mixture_of("alpaca", folder=texts.build(tmp_path_factory.mktemp("alpaca")), tokenizer=tokenizer)


def test_instruction_and_context_are_the_prompt_and_lines_stay_lines(mixture):
    found = {row["example_id"]: row for row in made.evaluated(mixture).metadata}
    asked = {key: row["prompt"].removeprefix("[Text] [S] ") for key, row in found.items()}
    assert asked == {
        "alpaca/0/0": "Name the colour of the digit in the middle.\n\n"
        "The scene has a red digit and, left of it, a blue one.",
        "alpaca/1/0": "Write the numbers from one to three,\none per line.",
        "alpaca/2/0": "Is a seven larger than a four?",
        "alpaca/3/0": "Say it with <image_input> signs   only.",
    }
    assert found["alpaca/1/0"]["target"] == "one\ntwo\nthree"
    assert found["alpaca/3/0"]["all_targets"] == ["☃ 42\n\n♥"]


def test_records_that_ask_or_answer_nothing_are_passed_over(mixture):
    assert made.usable(mixture) == [1, 1, 1, 1, 0, 0, 0]


def test_indented_lines_keep_their_indent(tokenizer, tmp_path):
    code = "def f():\n\n\n    return 1\r\n\r\n"
    folder = texts.build(tmp_path, name="dolly", rows=(("Write code.", "", code),))
    (row,) = made.evaluated(made.mixture_of("dolly", folder=folder, tokenizer=tokenizer)).metadata
    assert row["target"] == "def f():\n\n    return 1"


def test_a_tokenizer_is_trained_on_their_text(mixture):
    lines = list(dataset_lines(StoredDataset(mixture.dataset("alpaca").directory), "alpaca", lambda *_: None))
    assert {"Name the colour of the digit in the middle.", "Is a seven larger than a four?", "one two three"} <= set(
        lines
    )
    assert all(line.strip() for line in lines)
