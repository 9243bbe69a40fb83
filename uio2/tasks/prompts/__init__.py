"""Prompts: one TOML per task family, in the project's own wording, checked on load.

A file holds `placeholders` (names that every prompt must use once), `train` (at least 12 prompts, drawn
at random) and `eval` (exactly one, also used to train). To reproduce published numbers, point
`load_prompts` at a file with the published wording. Light: no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import re
import string
import tomllib
from pathlib import Path

MINIMUM = 12
_KEYS = {"placeholders", "eval", "train"}


class PromptError(ValueError):
    """A prompt file that breaks a rule; the message starts with file:line."""


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Checked prompts of one family.

    Attributes:
      family: the file's stem.
      placeholders: names each prompt holds in braces, in the order arguments are given.
      train: prompts drawn in training.
      evaluation: the prompt used for evaluation.
    """

    family: str
    placeholders: tuple[str, ...]
    train: tuple[str, ...]
    evaluation: str

    def render(self, prompt: str, **values: str) -> str:
        """Fills the placeholders of one prompt."""
        return prompt.format(**values)


def segments(prompt: str) -> list[tuple[str, str | None]]:
    """A prompt as (literal, placeholder after it or None), in order."""
    return [(literal, name) for literal, name, _, _ in string.Formatter().parse(prompt)]


def prompt_file(family: str) -> Path:
    """Where a family's own wording lies."""
    return Path(__file__).parent / f"{family}.toml"


def load_prompts(family: str, *, path: str | Path | None = None, text: str | None = None) -> Prompts:
    """Reads `<family>.toml` beside this module, the file at `path`, or the content `text` of a file.

    Raises:
      PromptError: not TOML, a missing or unknown key, too few prompts, an empty or repeated prompt, a
        placeholder that is unknown, missing or used twice.
    """
    path = Path(path) if path else prompt_file(family)
    if text is None and not path.is_file():
        raise PromptError(f"{path}:1: no such prompt file; write one with the keys placeholders, eval, train")
    text = path.read_text(encoding="utf-8") if text is None else text
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        raise PromptError(f"{path}:{line.group(1) if line else 1}: not TOML: {error}") from error
    if set(values) != _KEYS:
        odd = sorted(set(values) ^ _KEYS)
        raise PromptError(f"{path}:{_line(text, odd[0])}: keys {sorted(values)}; expected exactly {sorted(_KEYS)}")
    train, evaluation = values["train"], values["eval"]
    if not isinstance(evaluation, str) or not isinstance(train, list):
        raise PromptError(f"{path}:{_line(text, 'eval')}: eval must be one string and train a list of strings")
    if len(train) < MINIMUM:
        raise PromptError(f"{path}:{_line(text, 'train')}: {len(train)} training prompts; expected at least {MINIMUM}")
    for n, prompt in enumerate(train):
        where = f"{path}:{_line(text, prompt, repeat=train[:n].count(prompt) + (prompt == evaluation))}"
        if prompt in train[:n]:
            raise PromptError(f"{where}: prompt {prompt!r} appears twice; remove one")
        _check(where, prompt, values["placeholders"])
    _check(f"{path}:{_line(text, evaluation)}", evaluation, values["placeholders"])
    return Prompts(family, tuple(values["placeholders"]), tuple(train), evaluation)


def _check(where: str, prompt: object, placeholders: list[str]) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(f"{where}: empty prompt {prompt!r}; write a sentence or remove it")
    try:
        names = [name for _, name in segments(prompt) if name is not None]
    except ValueError as error:
        raise PromptError(f"{where}: prompt {prompt!r}: {error}; write {{{{ for a brace") from error
    for name in names:
        if name not in placeholders:
            raise PromptError(f"{where}: unknown placeholder {{{name}}} in {prompt!r}; known: {placeholders}")
    for name in placeholders:
        if names.count(name) != 1:
            raise PromptError(f"{where}: {{{name}}} is used {names.count(name)} times in {prompt!r}; expected once")


def _line(text: str, needle: object, *, repeat: int = 0) -> int:
    """The line of the file that holds `needle`, skipping `repeat` earlier ones; 1 if it is escaped there."""
    wanted = str(needle).replace("\\", "\\\\").replace('"', '\\"')
    quoted = f'"{wanted}"'
    lines = [n for n, line in enumerate(text.splitlines(), 1) if quoted in line]
    if not lines:
        lines = [n for n, line in enumerate(text.splitlines(), 1) if line.startswith(wanted)]
    return lines[min(repeat, len(lines) - 1)] if lines else 1
