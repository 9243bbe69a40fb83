"""A few records as things to see: read again from their shards, pictures made small, boxes placed, sound drawn.

Samples are the first records of each split, which are in the order of hashed keys: a random sample, always the same.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from beam_jobs.quality.doubles import TRAIN
from beam_jobs.quality.figures import Place, key_of
from beam_jobs.quality.hashes import is_picture
from beam_jobs.quality.layout import Boxes, Layout
from beam_jobs.shards import Shard
from beam_jobs.tf_example import Example
from beam_jobs.tfrecord import read_records
from uio2.tasks.audio import HOP, WINDOW, mel_weights
from uio2.tasks.visualize.canvas import spectrogram_uri
from uio2.tasks.wav import SAMPLE_RATE, WavError, read_wav

MAX_SIDE, SMALL_SIDE = 320, 150
JPEG_QUALITY = 80
MOST_BOXES, MOST_TEXTS, MOST_FRAMES, TEXT_LENGTH = 40, 4, 4, 280
SOUND_SECONDS = 8
_STEP = 2 * HOP  # half the model's frames: 250 for 8 s
_LOWEST_POWER = 1e-5


@dataclasses.dataclass(frozen=True)
class Box:
    """A box in per cent of the picture, and what is said of it."""

    left: float
    top: float
    width: float
    height: float
    label: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture as a data URI; `width` and `height` are those of what is stored, pixels."""

    uri: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Card:
    """One record: `texts` are (field, the first values, how many more)."""

    key: str
    split: str
    pictures: tuple[Picture, ...]
    boxes: tuple[Box, ...]
    texts: tuple[tuple[str, tuple[str, ...], int], ...]
    seconds: float | None

    def labels(self) -> list[str]:
        """What the boxes are, each once, in the order of the boxes."""
        return list(dict.fromkeys(box.label for box in self.boxes))


def read_cards(
    layout: Layout, shards: Sequence[Shard], places: Collection[Place], *, small: bool = False
) -> dict[Place, Card]:
    """The cards of these places; `small` ones are a picture alone.

    Args:
      layout: the dataset's fields.
      shards: all shards, in the order of their numbers.
      places: which records.
    """
    wanted: dict[int, set[int]] = {}
    for place in places:
        wanted.setdefault(place.shard, set()).add(place.record)
    found = {}
    for number, records in sorted(wanted.items()):
        shard = shards[number]
        for index, example in _records(shard.path, records):
            found[Place(number, index)] = _card(layout, example, split=shard.split, small=small)
    return found


def sample_places(shards: Sequence[Shard], *, first: int, others: int) -> list[Place]:
    """The first records of each split: `first` of `train` (or of the only split), `others` of the rest."""
    splits = {shard.split for shard in shards}
    found: list[Place] = []
    for split in sorted(splits):
        left = first if split == TRAIN or len(splits) == 1 else others
        for number, shard in enumerate(shards):
            if shard.split == split:
                taken = min(left, shard.records)
                found += [Place(number, record) for record in range(taken)]
                left -= taken
    return found


def _records(path: str, wanted: set[int]) -> Iterator[tuple[int, Example]]:
    last = max(wanted)
    with open(path, "rb") as file:
        for index, data in enumerate(read_records(file, name=path)):
            if index in wanted:
                yield index, Example.from_bytes(data)
            if index == last:
                return


def _card(layout: Layout, example: Example, *, split: str, small: bool) -> Card:
    side = SMALL_SIDE if small else MAX_SIDE
    pictures = [picture(data, max_side=side) for data in _pictures(layout, example, small=small)]
    found = [p for p in pictures if p]
    seconds = None
    if layout.sound and (data := next(iter(_values(example, layout.sound.key)), b"")):
        drawn, seconds = _spectrogram(data)
        found += [drawn] if drawn and not (small and found) else []
    if layout.seconds:
        seconds = round(float(next(iter(example.floats.get(layout.seconds.key, ())), 0.0)), 2)
    return Card(
        key=key_of(layout, example),
        split=split,
        pictures=tuple(found),
        boxes=() if small else tuple(_boxes(layout, example)),
        texts=() if small and found else tuple(_texts(layout, example)),
        seconds=seconds,
    )


def _values(example: Example, key: str) -> list[bytes]:
    return [v if isinstance(v, bytes) else v.encode() for v in example.strings.get(key, ())]


def _pictures(layout: Layout, example: Example, *, small: bool) -> list[bytes]:
    """The image with what is stored beside it (a map), or a few frames."""
    if layout.frames:
        frames = _values(example, layout.frames.key)
        step = max(1, math.ceil(len(frames) / MOST_FRAMES))
        return frames[::step][: 1 if small else MOST_FRAMES]
    image = _values(example, layout.image.key)[:1] if layout.image else []
    if small:
        return image
    beside = [v[0] for f in layout.texts if len(v := _values(example, f.key)) == 1 and is_picture(v[0])]
    return image + beside


def picture(data: bytes, *, max_side: int) -> Picture | None:
    """An encoded picture made small; None where it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            image.draft("RGB", (max_side, max_side))
            shown = _eight_bits(image)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None
    shown.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Picture(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", width, height)


def _eight_bits(image):  # type: ignore[no-untyped-def]
    """The image in colour; maps of more than 8 bits are stretched from their least to their greatest value."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image, np.float64)
    span = max(1.0, values.max() - values.min())
    return Image.fromarray(((values - values.min()) * 255 / span).astype(np.uint8)).convert("RGB")


def _boxes(layout: Layout, example: Example) -> Iterator[Box]:
    """The boxes of the first field that has any; what is asked about stands in `objects` where others are there too."""
    for boxes in sorted(layout.boxes, key=lambda field: not field.name.startswith("objects/")):
        values = example.floats.get(boxes.key, ())
        if len(values):
            said = _said(boxes, example)
            for i, (top, left, bottom, right) in enumerate(zip(*[iter(values)] * 4, strict=False)):
                if i < MOST_BOXES and bottom > top and right > left:
                    x, y, width, height = (round(100 * v, 2) for v in (left, top, right - left, bottom - top))
                    yield Box(x, y, width, height, said[i] if i < len(said) else "")
            return


def _said(boxes: Boxes, example: Example) -> list[str]:
    if boxes.label:
        names = boxes.label.names
        return [names[v] if 0 <= v < len(names) else str(v) for v in example.ints.get(boxes.label.key, ())]
    return [v.decode(errors="replace") for v in _values(example, boxes.phrase.key)] if boxes.phrase else []


def _texts(layout: Layout, example: Example) -> Iterator[tuple[str, tuple[str, ...], int]]:
    phrases = {boxes.phrase for boxes in layout.boxes}
    for field in (*layout.texts, *(c for c in layout.classes if not c.names)):
        if field in phrases:
            continue
        texts = [v.decode(errors="replace") for v in _values(example, field.key) if v.strip() and not is_picture(v)]
        if texts:
            shown = [t if len(t) <= TEXT_LENGTH else t[:TEXT_LENGTH].rstrip() + " …" for t in texts[:MOST_TEXTS]]
            yield field.name, tuple(shown), len(texts) - len(shown)


def _spectrogram(data: bytes) -> tuple[Picture | None, float | None]:
    """The first seconds of a clip as the model's log-mel values in colour, and how long it is."""
    try:
        samples = read_wav(data)
    except WavError:
        return None, None
    seconds = round(len(samples) / SAMPLE_RATE, 2)
    heard = samples[: SOUND_SECONDS * SAMPLE_RATE].astype(np.float64)
    if len(heard) < WINDOW:
        heard = np.pad(heard, (0, WINDOW - len(heard)))
    frames = np.lib.stride_tricks.sliding_window_view(heard, WINDOW)[::_STEP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2 @ mel_weights()
    values = np.log(np.maximum(power, _LOWEST_POWER)).astype(np.float32)
    return Picture(spectrogram_uri(values), len(values), values.shape[1]), seconds


def by_split(cards: Mapping[Place, Card], *, splits: Sequence[str]) -> dict[str, list[Card]]:
    """The cards of each split, in the order of places."""
    order = sorted(cards, key=lambda place: place.packed)
    return {split: [cards[place] for place in order if cards[place].split == split] for split in splits}
