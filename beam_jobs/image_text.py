"""Stage `build-image-text`: the `image_text` dataset, one example per image with its texts and tags.

    image: original bytes    image/id: int64    texts: [text]    labels: [text]

Sources, mixed as they come: images with a sidecar (`photo.jpg` and `photo.txt`, a text per line); tables with an image
and its texts or labels, several rows of one image are one example; Parquet that holds the bytes; WebDataset tars.
An image that EXIF says is stored turned is turned upright and encoded again, for nothing later reads that mark.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from beam_jobs import parquet, sources, tables, webdataset
from beam_jobs.build import build_as
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.image_files import SUFFIXES, image_bases, read_file
from beam_jobs.images import stored_image
from beam_jobs.job import Record
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_IMAGE_TEXT, ImageTextSpec
from beam_jobs.splits import named_split, number_of
from beam_jobs.table_job import Parsed, TableFile, TableJob
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace, place
from uio2.pipeline.stage import StageContext, StageError

NAME = "image_text"
FILE = ("image", "file_name", "filename", "file", "image_path", "filepath", "path")
TEXTS = ("texts", "text", "captions", "caption", "title")
LABELS = ("labels", "label", "tags", "category", "categories", "class")
TAR_SUFFIX = ".tar"
TAR, PARQUET, FOLDER, TABLE = "tar", "parquet", "folder", ""
DESCRIPTION = "Images with texts or tags; original image bytes."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTextJob(TableJob):
    """Settings and paths of one build; `folders` are those below `images`."""

    images: str
    folders: tuple[str, ...]
    max_pixels: int
    max_side: int | None = None
    name: str = NAME
    record_kind: str = "image"
    row_kind: str = "text"

    def items(self, source: TableFile) -> Iterator[tables.Item]:
        match source.layout:
            case "tar":
                return webdataset.rows(source.path, images=SUFFIXES)
            case "folder":
                return sidecars(source.path)
        return tables.rows(source.path)

    def parse(self, row: Mapping[str, Any], source: TableFile, index: int) -> Parsed:
        texts, labels = tables.texts_of(row, TEXTS), tables.texts_of(row, LABELS, separators=";|,")
        if not texts and not labels:
            raise BadRecord("empty_text", "neither a text nor a label")
        if source.layout == TAR:
            place = {"tar": source.path, "offset": row["#offset"], "size": row["#size"]}
            key = f"{source.name}/{row['#image']}"
        elif source.layout == PARQUET and (columns := parquet.bytes_columns(source.path)):
            place = {"parquet": source.path, "column": columns[0], "row": index}
            key = f"{source.name}/{index}"
        else:
            key = tables.text_of(row, FILE)
            place = {"file": key}
        split = named_split(str(row.get("split") or ""))
        if source.layout == FOLDER:
            split = named_split(str(PurePosixPath(key).parent))
        value = {"place": place, "texts": texts, "labels": labels}
        return Parsed(key, value, _counts(texts, labels), split=split)

    def assemble(
        self, key: str, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        ordered = sorted(rows["row"], key=lambda r: r["at"])
        texts = [text for row in ordered for text in row["value"]["texts"]]
        labels = [label for row in ordered for label in row["value"]["labels"]]
        value = {"place": ordered[0]["value"]["place"], "texts": texts, "labels": labels}
        yield self.record(key, ordered[0], value, _counts(texts, labels))

    def encode(self, record: Record) -> bytes:
        value = record.value
        stored = stored_image(self._bytes(value["place"]), max_pixels=self.max_pixels, max_side=self.max_side)
        return Example(
            ints={"image/id": [number_of(record.key)]},
            strings={"image": [stored.data], "texts": value["texts"], "labels": value["labels"]},
        ).to_bytes()

    def _bytes(self, place: Mapping[str, Any]) -> bytes:
        if "tar" in place:
            return webdataset.read_member(place["tar"], offset=place["offset"], size=place["size"])
        if "parquet" in place:
            return parquet.read_bytes(place["parquet"], column=place["column"], row=place["row"])
        return read_file(image_bases(self.images, self.folders), [place["file"]], kind="image")

    def count(self, example: Example) -> Mapping[str, int]:
        return {"image": 1, **_counts(example.strings["texts"], example.strings["labels"])}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import numpy as np
        import tensorflow_datasets as tfds

        f = tfds.features
        return f.FeaturesDict(
            {
                "image": f.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "image/id": np.int64,
                "texts": f.Sequence(f.Text()),
                "labels": f.Sequence(f.Text()),
            }
        )


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_IMAGE_TEXT, options)


def job_of(spec: ImageTextSpec, roots: Mapping[str, AnyPlace]) -> ImageTextJob:
    """The job of a recipe on the files of `roots`."""
    images = sources.required(roots, "images", wanted_by="build-image-text")
    if images.suffix == TAR_SUFFIX:
        # Samples, and not a folder.
        images = sources.stored(images)
    return ImageTextJob(
        files=source_files(images, roots.get("annotations", images)),
        validation_fraction=spec.validation_fraction,
        images=str(images if images.is_dir() else images.parent),
        folders=sources.subfolders(images) if images.is_dir() else (),
        max_pixels=spec.max_pixels,
        max_side=spec.max_side,
    )


def run(spec: ImageTextSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `image_text` from the raw artifact `raw`."""
    job = job_of(spec, sources.roots(context.inputs["raw"]))
    return build_as(spec, job, description=DESCRIPTION, context=context)


def source_files(images: AnyPlace, annotations: AnyPlace) -> tuple[TableFile, ...]:
    """Tars below `images`, tables below `annotations`, and `images` itself where texts lie beside them.

    Raises:
      StageError: nothing of the kind is there.
    """
    found = [file for root, kinds in ((images, (TAR,)), (annotations, (PARQUET, TABLE)))
             for file in _files(root) if file.layout in kinds]  # fmt: skip
    if images.is_dir() and next(sidecars(str(images)), None) is not None:
        found.append(TableFile(str(images), "sidecar", "", FOLDER))
    if not found:
        raise StageError(
            f"images = {images}, annotations = {annotations}: no text beside an image (photo.jpg with photo.txt), no "
            "table (JSON, JSON lines, CSV, TSV, Parquet) and no tar; expected at least one of them"
        )
    return tuple(found)


def sidecars(root: str) -> Iterator[tables.Item]:
    """A row per text file that lies beside an image of the same name; its lines are the texts."""
    there = place(root)
    paths = list(sources.walk(there))
    known = {path.with_suffix(""): path for path in paths if path.suffix.lower() in SUFFIXES}
    texts = [path for path in paths if path.suffix == ".txt" and path.with_suffix("") in known]
    for index, path in enumerate(texts):
        image = sources.name_below(known[path.with_suffix("")], there)
        yield index, {"file": image, "texts": [line for line in tables.lines(str(path)) if line.strip()]}


def _files(root: AnyPlace) -> Iterator[TableFile]:
    for path in sources.walk(root):
        name = path.name if path == root else sources.name_below(path, root)
        if path.suffix == TAR_SUFFIX:
            yield TableFile(str(path), name, named_split(name), TAR)
        elif path.suffix == ".parquet":
            yield TableFile(str(path), name, named_split(name), PARQUET)
        elif tables.is_table(path.name):
            yield TableFile(str(path), name, named_split(name), TABLE)


def _counts(texts: Sequence[Any], labels: Sequence[Any]) -> dict[str, int]:
    return {kind: len(values) for kind, values in (("text", texts), ("label", labels)) if values}
