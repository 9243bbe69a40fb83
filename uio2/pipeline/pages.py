"""How every page of the project is rendered: templates beside the code, everything escaped, no name left undefined."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def page_templates(module_file: str) -> Any:
    """The `jinja2.Environment` over the folder `templates` beside a module, given its `__file__`."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(module_file).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
