"""A page read back: its elements, and the pictures and sound that lie in it."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io

import numpy as np
from PIL import Image

VOID = ("img", "meta", "input", "br", "rect", "path", "line")


@dataclasses.dataclass
class Element:
    """A tag with its attributes and the text directly inside."""

    tag: str
    attributes: dict[str, str]
    text: str = ""

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Element] = []
        self._open: list[Element] = []

    def handle_starttag(self, tag, attrs):
        self.found.append(Element(tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(self.found[-1])

    def handle_startendtag(self, tag, attrs):
        self.found.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag):
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self._open[-1].text += data


def elements(page: str, tag: str, *classes: str) -> list[Element]:
    """All elements of a tag that have all these classes."""
    reader = _Reader()
    reader.feed(page)
    return [e for e in reader.found if e.tag == tag and set(classes) <= set(e.classes)]


def pictures(page: str) -> dict[str, np.ndarray]:
    """uint8 arrays of the pictures that have a caption, by it; of equal ones the last."""
    shown = [e for e in elements(page, "img") if e.attributes["alt"]]
    return {e.attributes["alt"]: picture(e.attributes["src"]) for e in shown}


def picture(uri: str) -> np.ndarray:
    """RGB, or RGBA where the picture has a transparency."""
    found = Image.open(io.BytesIO(decoded(uri)))
    return np.array(found if found.mode == "RGBA" else found.convert("RGB"))


def decoded(uri: str) -> bytes:
    """The bytes of a data URI."""
    return base64.b64decode(uri.partition("base64,")[2], validate=True)


def assert_loads_nothing(page: str) -> None:
    """No script, and no address but data URIs."""
    reader = _Reader()
    reader.feed(page)
    for e in reader.found:
        assert e.tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in e.attributes)
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            assert e.attributes.get(name, "data:").startswith("data:"), e
    (style,) = elements(page, "style")
    assert "url(" not in style.text
    assert "@import" not in style.text
