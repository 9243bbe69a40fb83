"""Which fields of a dataset are what, from its TFDS features.

The result is small and picklable: workers get it without importing TensorFlow. A field of text may hold encoded
pictures (masks, depth, frames); its features do not say so, the bytes do (`hashes.is_picture`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

KEYS = ("key", "image/id", "id")
NAMED = ("key", "filename", "id")  # texts that name a record and say nothing
CLASSES = ("label", "labels", "source", "speaker")
FRAMES, SOUND, SECONDS = "frames", "audio", "seconds"


@dataclasses.dataclass(frozen=True)
class Field:
    """A field: `name` is its path (`captions/text`), `key` its name in a serialised `tf.train.Example`."""

    name: str
    key: str


@dataclasses.dataclass(frozen=True)
class Classes(Field):
    """A field of classes: numbers that stand for `names`; texts, or numbers without names, if there are none."""

    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Boxes(Field):
    """Boxes, four floats each (ymin, xmin, ymax, xmax in 0..1); `label` or `phrase` is what is said of each."""

    label: Classes | None = None
    phrase: Field | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """The fields by what they are; `key` identifies a record; `decode` says whether pictures are decoded."""

    key: Field | None
    image: Field | None
    frames: Field | None
    sound: Field | None
    seconds: Field | None
    boxes: tuple[Boxes, ...]
    classes: tuple[Classes, ...]
    texts: tuple[Field, ...]
    decode: bool = True

    @property
    def content(self) -> str:
        """What makes two records the same: their `image`, `clip` or `text`."""
        return "image" if self.image else "clip" if self.frames or self.sound else "text"

    @property
    def looks(self) -> bool:
        """Whether records are compared by how their pictures look."""
        return self.decode and self.image is not None


@dataclasses.dataclass(frozen=True)
class _Leaf:
    field: Field
    feature: Any

    @property
    def last(self) -> str:
        return self.field.name.rpartition("/")[2]

    @property
    def parent(self) -> str:
        return self.field.name.rpartition("/")[0]


def layout_of(features: Any, *, decode: bool = True) -> Layout:
    """The layout of a `tfds.features.FeaturesDict`; `decode` as in `Layout`."""
    import numpy as np
    import tensorflow_datasets as tfds

    leaves = list(_leaves(features))
    # Not `dtype`: that one is TensorFlow's and imports it, 10 s of CPU.
    words = [leaf for leaf in leaves if leaf.feature.np_dtype in (np.object_, np.str_)]
    media = {leaf.field.name: leaf.field for leaf in leaves if leaf.field.name in (FRAMES, SOUND, SECONDS)}
    classes = [_classes(leaf) for leaf in leaves if leaf.last in CLASSES]
    texts = [x for x in words if x.last not in (*NAMED, *CLASSES) and x.field.name not in media]
    by_name = {leaf.field.name: leaf.field for leaf in leaves}
    return Layout(
        key=next((by_name[name] for name in KEYS if name in by_name), None),
        image=next((x.field for x in leaves if isinstance(x.feature, tfds.features.Image)), None),
        frames=media.get(FRAMES),
        sound=media.get(SOUND),
        seconds=media.get(SECONDS),
        boxes=tuple(
            _boxes(x, classes, texts) for x in leaves if isinstance(x.feature, tfds.features.BBoxFeature)
        ),
        classes=tuple(classes),
        texts=tuple(x.field for x in texts),
        decode=decode,
    )  # fmt: skip


def _leaves(node: Any, path: str = "", depth: int = 0) -> Iterator[_Leaf]:
    """All fields below a feature; TFDS flattens a sequence in a sequence into values and row lengths."""
    if hasattr(node, "feature"):
        yield from _leaves(node.feature, path, depth + 1)
    elif hasattr(node, "keys"):
        for name, inner in node.items():
            yield from _leaves(inner, f"{path}/{name}" if path else name, depth)
    else:
        yield _Leaf(Field(path, f"{path}/ragged_flat_values" if depth > 1 else path), node)


def _classes(leaf: _Leaf) -> Classes:
    names = getattr(leaf.feature, "names", None) or ()
    return Classes(leaf.field.name, leaf.field.key, tuple(names))


def _boxes(leaf: _Leaf, classes: Sequence[Classes], texts: Sequence[_Leaf]) -> Boxes:
    label = next((c for c in classes if c.name == f"{leaf.parent}/label" and c.names), None)
    # Texts of the same sequence come one per box; those of a sequence inside it do not.
    phrase = next((t.field for t in texts if t.field.name == f"{leaf.parent}/phrase"), None)
    return Boxes(leaf.field.name, leaf.field.key, label, phrase)
