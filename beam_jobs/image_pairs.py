"""Stage `build-image-pairs`: `image_depth` or `image_normals`, one example per image with a map of its size.

    image: original bytes    image/id: int64
    depth: 16-bit PNG of one channel, millimetres, 0 = unknown
    normals: 8-bit RGB PNG, colour = (n + 1) / 2 * 255, (128, 128, 128) = unknown

Sources are two folders whose files have the same names but for the suffix, and for `_depth`, `_normal` or `_normals`
at the end of the map's. Depth maps may be PNG or TIFF of whole numbers, or TIFF or .npy of floating-point metres.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from beam_jobs import sources
from beam_jobs.build import build_as
from beam_jobs.dead_letters import BadRecord, Letter, about
from beam_jobs.image_files import SUFFIXES, read_file
from beam_jobs.images import ImageFacts, StoredImage, check_image, png_ends, stored_image
from beam_jobs.job import Info, Record, Row
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_IMAGE_PAIRS, ImagePairsSpec
from beam_jobs.splits import hashed_split, named_split, number_of
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace, place
from uio2.pipeline.stage import StageContext, StageError

DESCRIPTIONS = {
    "depth": "Images with depth maps in millimetres; original image bytes.",
    "normals": "Images with surface normals as colours; original image bytes.",
}
MAPS = {"depth": (".png", ".tif", ".tiff", ".npy"), "normals": (".png",)}
ENDS = ("_depth", "_normals", "_normal")
MILLIMETRES = 1000.0
_DEEPEST = 65_535


@dataclasses.dataclass(frozen=True)
class ImagePairsJob:
    """Settings and paths of one build; a source is (kind, root), with kind `image` or `map`."""

    images: str
    maps: str
    target: str
    millimetres: float
    max_pixels: int
    validation_fraction: float
    max_side: int | None = None
    record_kind: str = "image"
    join_kinds: tuple[str, ...] = ("image", "map")

    @property
    def name(self) -> str:
        return f"image_{self.target}"

    def sources(self) -> Sequence[tuple[str, str]]:
        return (("image", self.images), ("map", self.maps))

    def read(self, source: tuple[str, str]) -> Iterator[Row | Letter | Info]:
        kind, root = source
        suffixes = SUFFIXES if kind == "image" else MAPS[self.target]
        there = place(root)
        for path in sources.walk(there):
            name = sources.name_below(path, there)
            # Where both lie in one folder, the names' ends say which is which.
            if path.suffix.lower() in suffixes and (
                self.images != self.maps or (stem(name) != bare(name)) == (kind == "map")
            ):
                yield Row(stem(name) if kind == "map" else bare(name), kind, name, {"map": 1} if kind == "map" else {})

    def assemble(
        self, key: str, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        images, maps = sorted(rows["image"]), sorted(rows["map"])
        if not images or not maps:
            kind, missing = ("image", "map") if images else ("map", "image")
            name = (images or maps)[0]
            error = f"{name}: no {missing} of this name"
            yield Letter(key, kind, "join", f"{missing}_missing", error, name, {kind: len(images or maps)}, fault=False)
            return
        for kind, names in (("image", images), ("map", maps)):
            if len(names) > 1:
                error = f"{names[0]} has the same name"
                yield Letter(key, kind, "join", "duplicate_key", error, names[1], {kind: len(names) - 1})
        split = named_split(str(PurePosixPath(images[0]).parent))
        split = split or hashed_split(key, validation_fraction=self.validation_fraction)
        yield Record(split, key, {"image": images[0], "map": maps[0]}, {"image": 1, "map": 1}, images[0])

    def encode(self, record: Record) -> bytes:
        value = record.value
        data = read_file([self.images], [value["image"]], kind="image")
        with about(data):
            facts = check_image(data, max_pixels=self.max_pixels)
            if facts.orientation > 1:
                raise BadRecord("turned", f"EXIF orientation {facts.orientation}: whether the map is turned is unknown")
        image = stored_image(data, max_pixels=self.max_pixels, max_side=self.max_side)
        pixels = read_file([self.maps], [value["map"]], kind="map")
        with about(pixels):
            pixels = self._map(pixels, value["map"], facts)
        return Example(
            ints={"image/id": [number_of(record.key)]},
            strings={"image": [image.data], self.target: [_resized(pixels, image)]},
        ).to_bytes()

    def _map(self, data: bytes, name: str, facts: ImageFacts) -> bytes:
        if self.target == "depth":
            return depth_png(data, name, facts, millimetres=self.millimetres, max_pixels=self.max_pixels)
        _check_normals(data, facts, max_pixels=self.max_pixels)
        return data

    def count(self, example: Example) -> Mapping[str, int]:
        return {"image": 1, "map": len(example.strings[self.target])}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import tensorflow_datasets as tfds

        f = tfds.features
        image = f.Image(shape=(None, None, 3), encoding_format="jpeg")
        return f.FeaturesDict({"image": image, "image/id": np.int64, self.target: f.Text()})


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_IMAGE_PAIRS, options)


def job_of(spec: ImagePairsSpec, roots: Mapping[str, AnyPlace]) -> ImagePairsJob:
    """The job of a recipe on the files of `roots`."""
    if spec.target not in MAPS:
        raise StageError(f"ImagePairsSpec.target = {spec.target!r}: expected {' or '.join(MAPS)}")
    images = sources.required(roots, "images", wanted_by=f"build of image_{spec.target}")
    maps = sources.required(roots, spec.target, wanted_by=f"build of image_{spec.target}")
    return ImagePairsJob(
        str(images), str(maps), spec.target, spec.millimetres, spec.max_pixels, spec.validation_fraction, spec.max_side
    )


def run(spec: ImagePairsSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `image_depth` or `image_normals` from the raw artifact `raw`."""
    job = job_of(spec, sources.roots(context.inputs["raw"]))
    return build_as(spec, job, description=DESCRIPTIONS[spec.target], context=context)


def bare(name: str) -> str:
    """A path without its suffix."""
    return str(PurePosixPath(name).with_suffix(""))


def stem(name: str) -> str:
    """A path without its suffix and without what marks it as a map."""
    plain = bare(name)
    return next((plain.removesuffix(end) for end in ENDS if plain.endswith(end)), plain)


def depth_png(data: bytes, name: str, facts: ImageFacts, *, millimetres: float, max_pixels: int) -> bytes:
    """A depth map as 16-bit millimetres; one that is stored so already keeps its bytes.

    Args:
      data: a PNG, TIFF or .npy file.
      name: its name, for the suffix.
      facts: of the image, which has the same size.
      millimetres: of one unit of a whole-number map.
      max_pixels: larger maps are not decoded.

    Raises:
      BadRecord: `map_undecodable`, `map_mode`, `map_size` or `no_depth`.
    """
    values, kept = _depth_values(data, name, max_pixels=max_pixels)
    if values.shape != (facts.height, facts.width):
        found = " x ".join(map(str, values.shape[::-1]))
        raise BadRecord("map_size", f"the map is {found}, the image {facts.width} x {facts.height}")
    whole = np.issubdtype(values.dtype, np.integer)
    scaled = values * (millimetres if whole else MILLIMETRES)
    known = np.isfinite(scaled) & (scaled > 0) & (scaled <= _DEEPEST)
    if not known.any():
        raise BadRecord("no_depth", f"no pixel is between 0 and {_DEEPEST} mm")
    if kept and millimetres == 1:
        return data
    buffer = io.BytesIO()
    Image.fromarray(np.where(known, np.rint(scaled), 0).astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def _resized(data: bytes, image: StoredImage) -> bytes:
    """A map in the size of its stored image, by nearest pixels: between two depths or normals there is no third."""
    found: Image.Image = Image.open(io.BytesIO(data))
    if found.size == (image.width, image.height):
        return data
    buffer = io.BytesIO()
    found.resize((image.width, image.height), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _depth_values(data: bytes, name: str, *, max_pixels: int) -> tuple[np.ndarray, bool]:
    """Height x width numbers, and whether the file is a 16-bit PNG of one channel."""
    try:
        if name.lower().endswith(".npy"):
            values = np.squeeze(np.load(io.BytesIO(data), allow_pickle=False))
            if values.ndim != 2:
                raise BadRecord("map_mode", f"an array of shape {values.shape}; expected height x width")
            return values, False
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > max_pixels:
            raise BadRecord("too_many_pixels", f"{image.width} x {image.height} is above max_pixels = {max_pixels}")
        if image.mode not in ("I;16", "I;16B", "I", "F"):
            raise BadRecord(
                "map_mode", f"{image.format} of mode {image.mode}; expected one channel of 16 bits or floats"
            )
        values = np.asarray(image)
        if image.format == "PNG" and not png_ends(data):
            raise BadRecord("map_undecodable", "the PNG is cut short: its end chunk is missing")
        return values, image.format == "PNG" and image.mode == "I;16"
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as e:
        raise BadRecord("map_undecodable", f"{type(e).__name__}: {e}") from e


def _check_normals(data: bytes, facts: ImageFacts, *, max_pixels: int) -> None:
    try:
        found = check_image(data, max_pixels=max_pixels)
    except BadRecord as bad:
        raise BadRecord(f"map_{bad.reason}", bad.error) from bad
    if (found.format, found.mode) != ("PNG", "RGB"):
        raise BadRecord("map_mode", f"{found.format} of mode {found.mode}; expected PNG of mode RGB")
    if (found.width, found.height) != (facts.width, facts.height):
        raise BadRecord(
            "map_size", f"the map is {found.width} x {found.height}, the image {facts.width} x {facts.height}"
        )
