"""Cards to one HTML file that loads nothing: styles inline, pictures and sound as data URIs, no script.

A page has a size it does not exceed (`max_bytes`); the examples that found no place are named.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from uio2.pipeline.atomic import write_text
from uio2.tasks.visualize import layout, tokens
from uio2.tasks.visualize.cards import Example, Style, card

if TYPE_CHECKING:
    import jinja2

MAX_BYTES = 32 * 2**20
TEMPLATES = Path(__file__).parent / "templates"


@dataclasses.dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
      html: all of it.
      examples: how many it shows.
      left_out: how many had no place in it.
      bytes_per_example: mean and most.
    """

    html: str
    examples: int
    left_out: int
    bytes_per_example: tuple[int, int]


def build(examples: Iterable[Example], *, title: str, about: str, style: Style, max_bytes: int = MAX_BYTES,
          packing: layout.Packing | None = None) -> Page:  # fmt: skip
    """The page of some examples.

    Args:
      examples: in the order of the page.
      title, about: its heading and the line below.
      style: see `Style`.
      max_bytes: the page holds no further example that would make it longer.
      packing: which of the examples share rows of the model; None where each has its own.

    Raises:
      ValueError: a packing of another number of examples.
    """
    environment = _environment()
    template = environment.get_template("card.html.jinja")
    shown: list[str] = []
    sides: list[tuple[layout.Side, layout.Side]] = []
    sizes: list[int] = []
    left_out = 0
    for example in examples:
        if left_out:
            left_out += 1
            continue
        made = card(example, number=len(shown) + 1, style=style)
        html = template.render(card=made)
        size = len(html.encode())
        if sum(sizes) + size > max_bytes:
            left_out += 1
            continue
        shown.append(html)
        sizes.append(size)
        sides.append(made.sides)
    html = environment.get_template("page.html.jinja").render(
        title=title, about=about, cards=shown, left_out=left_out, max_bytes=max_bytes, kinds=tokens.KINDS,
        masks=style.masks, recipe=_recipe(style), modalities=_modalities(style),
        packed=_packed(sides, packing) if packing else [],
    )  # fmt: skip
    mean = sum(sizes) // len(sizes) if sizes else 0
    return Page(html, len(shown), left_out, (mean, max(sizes, default=0)))


def _packed(sides: list[tuple[layout.Side, layout.Side]], packing: layout.Packing) -> list[layout.PackedRow]:
    """The rows, with the examples for which the page had room."""
    return layout.packed_rows(sides, dataclasses.replace(packing, rows=packing.rows[: len(sides)]))


def write(page: Page, path: Path) -> None:
    """Writes the page in one step; an older page of that name stays whole until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page.html)


def _modalities(style: Style) -> list[str]:
    """All that rows of the model hold."""
    return list(dict.fromkeys((*style.recipe.input_modalities, *style.recipe.target_modalities)))


def _recipe(style: Style) -> list[tuple[str, str]]:
    """The sizes that shape every example."""
    recipe = style.recipe
    inputs, targets = recipe.input_modalities, recipe.target_modalities
    found = [
        ("text", f"{recipe.text_inputs} in, {recipe.text_targets} out"),
        ("inputs", ", ".join(inputs)),
        ("targets", ", ".join(targets)),
    ]
    sizes = (
        ("image", inputs, recipe.image_size, recipe.image_patch_size),
        ("image_history", inputs, recipe.image_history_size, recipe.image_patch_size),
        ("image target", targets, recipe.image_target_size, recipe.image_target_patch_size),
    )
    for name, modalities, (height, width), patch in sizes:
        if name.removesuffix(" target") in modalities:
            found.append((name.replace("_", " "), f"{height} x {width}, patches of {patch}"))
    return found


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
