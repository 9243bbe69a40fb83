"""Prompt files: the shipped ones load, broken ones are refused with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from uio2.tasks import prompts
from uio2.tasks.prompts import PromptError, load_prompts

FAMILIES = sorted(p.stem for p in Path(prompts.__file__).parent.glob("*.toml"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_shipped_family_loads_and_renders(family):
    loaded = load_prompts(family)
    for prompt in (*loaded.train, loaded.evaluation):
        filled = loaded.render(prompt, **dict.fromkeys(loaded.placeholders, "VALUE"))
        assert filled.count("VALUE") == len(loaded.placeholders)
        assert "{" not in filled


def write(tmp_path, *, train, placeholders='["x"]', evaluation='"ask {x}"', extra=""):
    path = tmp_path / "bad.toml"
    lines = [f"placeholders = {placeholders}", f"eval = {evaluation}", "train = [", *[f'  "{t}",' for t in train], "]"]
    path.write_text("\n".join([*lines, extra]))
    return path


GOOD = [f"prompt {n} {{x}}" for n in range(12)]


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        ({"train": [*GOOD[:11], "no placeholder"]}, 15, "used 0 times"),
        ({"train": [*GOOD, "{x} and {y}"]}, 16, "unknown placeholder"),
        ({"train": [*GOOD, GOOD[3]]}, 16, "appears twice"),
        ({"train": [*GOOD, " "]}, 16, "empty prompt"),
        ({"train": GOOD[:5]}, 3, "5 training prompts"),
        ({"train": GOOD, "evaluation": '["a {x}", "b {x}"]'}, 2, "eval must be one string"),
        ({"train": GOOD, "extra": "evla = 1"}, 17, "keys"),
        ({"train": GOOD, "extra": "not toml"}, 17, "not TOML"),
    ],
)
def test_broken_files_name_file_and_line(tmp_path, change, line, words):
    path = write(tmp_path, **change)
    with pytest.raises(PromptError, match=words) as error:
        load_prompts("bad", path=path)
    assert str(error.value).startswith(f"{path}:{line}:")
