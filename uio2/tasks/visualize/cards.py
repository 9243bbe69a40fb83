"""One example of a model batch as a card of the page: pictures with what is drawn over them, sound, tokens, facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from uio2.tasks import audio
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.visualize import canvas, layout, marks, sound, tokens
from uio2.tasks.visualize.tokens import Pieces, Token
from uio2.tasks.wav import SAMPLE_RATE

GRID_COLOURS = {"loss": (230, 140, 20, 255), "task": (64, 120, 255, 255)}
_OFF = (122, 127, 135, 70)
NO_MARKS = marks.Marks()


@dataclasses.dataclass(frozen=True)
class Example:
    """One row of a model batch.

    Attributes:
      task: its name.
      title: what tells it from others.
      batch: model batch key -> array without the batch dimension.
      facts: what else is known, JSON values; `box` and `image_info` are drawn (`uio2.tasks.eval_feed`).
    """

    task: str
    title: str
    batch: Mapping[str, np.ndarray]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture on a card.

    Attributes:
      kind: `picture`, `sound`, `past` (of a history) or `grid`; decides its size on the page.
      caption, note: what it is; how much of it counts.
      uri: the picture.
      width, height: its own pixels.
      overlay: cells to lay over it, a picture with one pixel per cell; None for none.
      marks: boxes and points.
    """

    kind: str
    caption: str
    note: str
    uri: str
    width: int
    height: int
    overlay: str | None = None
    marks: marks.Marks = NO_MARKS


@dataclasses.dataclass(frozen=True)
class Clip:
    """Something to listen to."""

    caption: str
    uri: str


@dataclasses.dataclass(frozen=True)
class Feature:
    """One key of the batch: its type and shape, and the range of its values."""

    key: str
    type: str
    range: str


@dataclasses.dataclass(frozen=True)
class Card:
    """Everything the template draws of one example."""

    number: int
    task: str
    title: str
    figures: tuple[Figure, ...]
    clips: tuple[Clip, ...]
    prompt: list[Token]
    target: list[Token] | None
    options: list[list[Token]]
    sides: tuple[layout.Side, layout.Side]
    facts: Mapping[str, Any]
    features: list[Feature]

    @property
    def taught(self) -> bool:
        """Whether anything of it counts in the loss."""
        return any(part.tokens for part in self.sides[1].parts)


@dataclasses.dataclass(frozen=True)
class Style:
    """How examples are shaped and what is drawn.

    Attributes:
      recipe: sizes of the batch.
      vocabulary: of its tokens.
      masks: whether pictures carry their masks.
    """

    recipe: RegisterSpec
    vocabulary: Pieces
    masks: bool = True


def card(example: Example, *, number: int, style: Style) -> Card:
    """The card of an example; `number` counts from 1."""
    batch = example.batch
    found = marks.in_tokens(batch["inputs/text/tokens"].tolist(), role="prompt", vocabulary=style.vocabulary)
    if "targets/text/targets" in batch:
        found += marks.in_tokens(batch["targets/text/targets"].tolist(), role="target", vocabulary=style.vocabulary)
    if "image_info" in example.facts:
        found += marks.stored_box(example.facts.get("box"), image_info=example.facts["image_info"],
                                  size=style.recipe.image_size)  # fmt: skip
    heard, clips = _sounds(batch, style)
    figures = (*_images(batch, style, found), *_image_target(batch, style, found), *heard)
    return Card(
        number=number, task=example.task, title=example.title, figures=figures, clips=clips,
        prompt=tokens.inputs(batch["inputs/text/tokens"], mask=batch["inputs/text/mask"], vocabulary=style.vocabulary),
        target=_target(batch, style), options=_options(batch, style), sides=layout.sides(batch), facts=example.facts,
        features=[_feature(key, value) for key, value in batch.items()],
    )  # fmt: skip


def _target(batch: Mapping[str, np.ndarray], style: Style) -> list[Token] | None:
    if "targets/text/targets" not in batch:
        return None
    part = {name: batch[f"targets/text/{name}"] for name in ("targets", "mask", "inputs", "pos_ids", "segment_ids")}
    return tokens.targets(part["targets"], mask=part["mask"], before=part["inputs"], positions=part["pos_ids"],
                          segments=part["segment_ids"], vocabulary=style.vocabulary)  # fmt: skip


def _options(batch: Mapping[str, np.ndarray], style: Style) -> list[list[Token]]:
    rows = batch.get("choices/tokens", np.zeros((0, 0), np.int32))
    return [tokens.inputs(row, mask=row > 0, vocabulary=style.vocabulary) for row in rows if row.any()]


def _images(batch: Mapping[str, np.ndarray], style: Style, found: marks.Marks) -> list[Figure]:
    """The image with what is drawn over it, then the frames before it."""
    out, recipe = [], style.recipe
    for name, size in (("image", recipe.image_size), ("image_history", recipe.image_history_size)):
        frames = _items(batch, name)
        for n, (values, mask, positions) in enumerate(frames):
            whole = canvas.assemble(values, mask=mask, positions=positions, size=size, patch=recipe.image_patch_size)
            kind, title = ("picture", "image") if name == "image" else ("past", f"image history {n + 1}")
            drawn = found if name == "image" else NO_MARKS
            picture = canvas.pixels(whole)
            out.append(_figure(kind, title, whole, canvas.picture_uri(picture), picture.shape, style, drawn))
    return out


def _sounds(batch: Mapping[str, np.ndarray], style: Style) -> tuple[list[Figure], tuple[Clip, ...]]:
    """Spectrograms, and one clip of the segments in their order."""
    out, segments = [], []
    for name in ("audio_history", "audio"):
        for n, (values, mask, positions) in enumerate(_items(batch, name)):
            whole = canvas.assemble(values, mask=mask, positions=positions, size=audio.SPECTROGRAM,
                                    patch=style.recipe.audio_patch_size)  # fmt: skip
            segments.append(canvas.log_mel(whole))
            kind, title = ("sound", "audio") if name == "audio" else ("past", f"audio history {n + 1}")
            shape = audio.SPECTROGRAM[::-1]
            flat = dataclasses.replace(whole, cells=canvas.upright(whole.cells))
            uri = canvas.spectrogram_uri(segments[-1])
            out.append(_figure(kind, title, flat, uri, shape, style, NO_MARKS))
    clips = [_clip("audio, reconstructed", segments)] if segments else []
    if "targets/audio/audio" in batch and batch["targets/audio/mask"].any():
        values = audio.undo_target(batch["targets/audio/audio"][..., 0])
        out += _codes(batch, "audio", canvas.spectrogram_uri(values), audio.SPECTROGRAM, style, NO_MARKS)
        clips.append(_clip("target, reconstructed", [values]))
    return out, tuple(clips)


def _clip(caption: str, segments: list[np.ndarray]) -> Clip:
    """The segments behind one another, without the digital silence at the end."""
    samples = np.concatenate([sound.reconstruct(values) for values in segments])
    heard = np.flatnonzero(np.abs(samples) > 1e-6)
    samples = samples[: heard[-1] + 1 if len(heard) else audio.HOP]
    return Clip(f"{caption}: {len(samples) / SAMPLE_RATE:.1f} s", sound.wav_uri(samples))


def _image_target(batch: Mapping[str, np.ndarray], style: Style, found: marks.Marks) -> list[Figure]:
    if "targets/image/image" not in batch or not batch["targets/image/mask"].any():
        return []
    picture = canvas.target_pixels(batch["targets/image/image"])
    return _codes(batch, "image", canvas.picture_uri(picture), picture.shape[:2], style, found)


def _codes(batch: Mapping[str, np.ndarray], kind: str, uri: str, size: tuple[int, ...], style: Style,
           found: marks.Marks) -> list[Figure]:  # fmt: skip
    """A target picture or spectrogram with its three masks over the codes, and two of them as grids of their own."""
    side = getattr(style.recipe, f"{kind}_target_patch_size")
    shape = (size[0] // side, size[1] // side)
    there, counted, hidden = (
        batch[f"targets/{kind}/{name}"].reshape(shape) > 0 for name in ("mask", "loss_mask", "task_mask")
    )
    if kind == "audio":
        there, counted, hidden = (canvas.upright(grid) for grid in (there, counted, hidden))
        size = size[::-1]
    layers = [(~there, canvas.ABSENT), (hidden, canvas.HIDDEN), (there & ~counted, canvas.UNCOUNTED)]
    note = f"{there.sum()} of {there.size} codes"
    figure = Figure("picture" if kind == "image" else "sound", f"{kind} target", note, uri, size[1], size[0],
                    canvas.cells_uri(layers) if style.masks else None, found)  # fmt: skip
    grids = [("loss", "codes in the loss", counted), ("task", "codes the task hides", hidden)]
    return [figure, *(
        Figure("grid", caption, f"{cells.sum()} of {cells.size}",
               canvas.cells_uri([(cells, GRID_COLOURS[name]), (~cells, _OFF)]), cells.shape[1], cells.shape[0])
        for name, caption, cells in grids
    )]  # fmt: skip


def _items(batch: Mapping[str, np.ndarray], name: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(patches, mask, positions) of each item of a modality that is there, oldest first."""
    if f"inputs/{name}/input" not in batch:
        return []
    parts = [batch[f"inputs/{name}/{key}"] for key in ("input", "mask", "pos_ids")]
    if parts[0].ndim == 2:
        parts = [part[None] for part in parts]
    return [(values, mask, positions) for values, mask, positions in zip(*parts, strict=True) if mask.any()]


def _figure(kind: str, caption: str, whole: canvas.Canvas, uri: str, shape: tuple[int, ...], style: Style,
            drawn: marks.Marks) -> Figure:  # fmt: skip
    overlay = None
    if style.masks and (whole.cells < 2).any():
        overlay = canvas.cells_uri([(whole.cells < 2, canvas.ABSENT)])
    note = f"{whole.seen} of {whole.cells.size} patches"
    return Figure(kind, caption, note, uri, shape[1], shape[0], overlay, drawn)


def _feature(key: str, value: np.ndarray) -> Feature:
    shape = f"{value.dtype}{list(value.shape)}"
    if not value.size:
        return Feature(key, shape, "empty")
    low, high = value.min(), value.max()
    spelled = f"{low:.3g} .. {high:.3g}" if value.dtype.kind == "f" else f"{low} .. {high}"
    return Feature(key, shape, spelled)
