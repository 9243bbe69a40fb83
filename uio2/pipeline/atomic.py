"""Small text files that are there whole or not at all: written beside their place, then renamed.

For files inside a folder that is published by its own mark; `uio2.pipeline.store.write_json` also waits for the disk.
"""

from __future__ import annotations

from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 through `<name>.tmp` and a rename; the folder must exist and have one writer of this file."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
