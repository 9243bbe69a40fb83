"""Small datasets of instructions, as `build-alpaca` and its like publish them."""

from __future__ import annotations

from pathlib import Path

import tensorflow_datasets as tfds

from tests.tiny import scenes

F = tfds.features
FEATURES = F.FeaturesDict({name: F.Text() for name in ("key", "instruction", "context", "response", "source")})
# Instruction, context, response; the last three cannot be used.
ROWS = (
    ("Name the colour of the digit in the middle.", "The scene has a red digit and, left of it, a blue one.", "Red"),
    ("Write the numbers from one to three,\r\none per line.", "", "one\ntwo\nthree"),
    ("", "Is a seven larger than a four?", "Yes, by three."),
    ("  Say it with <image_input> signs \x07 only.", "\n\n", "☃ 42\n\n\n\n♥"),
    ("Who asks?", "", " \n "),
    ("", "", "an answer to nothing"),
    ("\x00", " ", "."),
)


def build(folder: Path, *, name: str = "alpaca", rows: tuple[tuple[str, str, str], ...] = ROWS) -> Path:
    """All rows in both splits."""
    made = [
        {"key": f"{name}/{n}", "instruction": instruction, "context": context, "response": response, "source": ""}
        for n, (instruction, context, response) in enumerate(rows)
    ]
    return scenes.write(folder, name, FEATURES, {"train": made, "validation": made})
