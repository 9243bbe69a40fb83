"""Writes every golden text again: `python -m tests.goldens.regenerate`. Prints what changed."""

from __future__ import annotations

from tests.goldens.texts import FOLDER, GOLDENS, stored


def main() -> None:
    """Makes all texts before the first is written, so that a failure changes nothing."""
    before = stored()
    texts = {name: make() for name, make in GOLDENS.items()}
    for name in before.keys() - texts.keys():
        (FOLDER / name).unlink()
        print(f"removed    {name}")
    for name, text in texts.items():
        if before.get(name) == text:
            print(f"unchanged  {name}")
            continue
        path = FOLDER / name
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
        print(f"{'changed' if name in before else 'new':<9}  {name}")


if __name__ == "__main__":
    main()
