"""The golden texts are what the code makes today."""

from __future__ import annotations

import difflib

import pytest

from tests.goldens.texts import GOLDENS, stored

COMMAND = "python -m tests.goldens.regenerate"


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_text(name):
    found, made = stored().get(name, ""), GOLDENS[name]()
    if found != made:
        diff = "\n".join(difflib.unified_diff(found.splitlines(), made.splitlines(), "stored", "now", lineterm="", n=1))
        pytest.fail(f"tests/goldens/{name} differs; if that is meant, run: {COMMAND}\n{diff}", pytrace=False)


def test_every_file_belongs_to_something():
    assert stored().keys() == GOLDENS.keys(), f"run: {COMMAND}"
