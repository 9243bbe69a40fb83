"""Stage `build-visual-genome`: the `visual_genome` dataset, one example per image with its described regions.

    image: original bytes    image/id: int64
    regions: [{bbox (ymin, xmin, ymax, xmax in 0..1), id: int64, phrase: text}]      by id

Sources are Visual Genome's `image_data.json` (sizes) and `region_descriptions.json`, and its image folders (`VG_100K`,
`VG_100K_2`). Boxes that reach over the edge are cut off there; one without area inside the image is dropped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs import coco_rows, sources
from beam_jobs.build import build_as
from beam_jobs.coco_rows import checked_text, field
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.image_files import SUFFIXES, image_bases, read_image
from beam_jobs.job import Info, Record, Row
from beam_jobs.json_stream import stream
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_VISUAL_GENOME, VisualGenomeSpec
from beam_jobs.splits import hashed_split
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageContext, StageError

NAME = "visual_genome"
FILES = {"image": "image_data.json", "region": "region_descriptions.json"}
DESCRIPTION = "Visual Genome images with described regions; original image bytes."


@dataclasses.dataclass(frozen=True)
class VisualGenomeJob:
    """Settings and paths of one build; `files` are (kind, path), `folders` those below `images`."""

    files: tuple[tuple[str, str], ...]
    images: str
    folders: tuple[str, ...]
    max_pixels: int
    validation_fraction: float
    max_side: int | None = None
    name: str = NAME
    record_kind: str = "image"
    join_kinds: tuple[str, ...] = ("image", "region")

    def sources(self) -> Sequence[tuple[str, str]]:
        return self.files

    def read(self, source: tuple[str, str]) -> Iterator[Row | Letter | Info]:
        kind, path = source
        return read_images(path) if kind == "image" else read_regions(path)

    def assemble(
        self, key: int, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        if not rows["region"]:
            # Nothing is said about it.
            return
        if not rows["image"]:
            drops = {"region": len(rows["region"])}
            source = min(r["source"] for r in rows["region"])
            yield Letter(str(key), "region", "join", "image_not_listed", f"not in {FILES['image']}", source, drops)
            return
        image = min(rows["image"], key=lambda r: r["source"])

        def make(row: Mapping[str, Any]) -> dict[str, Any]:
            box = coco_rows.normalised_box(row["bbox"], width=image["width"], height=image["height"])
            return {"id": row["id"], "phrase": row["phrase"], "bbox": box}

        regions, letters = coco_rows.joined(key, rows["region"], "region", make)
        yield from letters
        if regions:
            split = hashed_split(str(key), validation_fraction=self.validation_fraction)
            value = {"id": key, "image": image, "regions": regions}
            yield Record(split, str(key), value, {"image": 1, "region": len(regions)}, image["source"])

    def encode(self, record: Record) -> bytes:
        value = record.value
        image, regions = value["image"], value["regions"]
        # A folder that holds a part of the images is an ordinary thing to give: a missing one is no fault.
        stored = read_image(
            image_bases(self.images, self.folders),
            [f"{value['id']}{suffix}" for suffix in SUFFIXES],
            max_pixels=self.max_pixels,
            max_side=self.max_side,
            size=(image["width"], image["height"]),
            must_exist=False,
        )
        return Example(
            ints={"image/id": [value["id"]], "regions/id": [r["id"] for r in regions]},
            floats={"regions/bbox": [v for r in regions for v in r["bbox"]]},
            strings={"image": [stored.data], "regions/phrase": [r["phrase"] for r in regions]},
        ).to_bytes()

    def count(self, example: Example) -> Mapping[str, int]:
        return {"image": 1, "region": len(example.ints["regions/id"])}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import numpy as np
        import tensorflow_datasets as tfds

        f = tfds.features
        return f.FeaturesDict(
            {
                "image": f.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "image/id": np.int64,
                "regions": f.Sequence({"bbox": f.BBoxFeature(), "id": np.int64, "phrase": f.Text()}),
            }
        )


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_VISUAL_GENOME, options)


def job_of(spec: VisualGenomeSpec, roots: Mapping[str, AnyPlace]) -> VisualGenomeJob:
    """The job of a recipe on the files of `roots`."""
    images = sources.required(roots, "images", wanted_by="build-visual-genome")
    annotations = sources.required(roots, "annotations", wanted_by="build-visual-genome")
    return VisualGenomeJob(
        tuple((kind, _find(annotations, name)) for kind, name in FILES.items()),
        str(images),
        sources.subfolders(images),
        spec.max_pixels,
        spec.validation_fraction,
        spec.max_side,
    )


def run(spec: VisualGenomeSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `visual_genome` from the raw artifact `raw`."""
    job = job_of(spec, sources.roots(context.inputs["raw"]))
    return build_as(spec, job, description=DESCRIPTION, context=context)


def _find(root: AnyPlace, name: str) -> str:
    found = [path for path in sources.walk(root) if path.name in (name, f"{name}.gz")]
    if not found:
        raise StageError(f"annotations = {root}: no {name}; expected Visual Genome's {' and '.join(FILES.values())}")
    return str(found[0])


def read_images(path: str) -> Iterator[Row | Letter]:
    """Sizes by image id; they bring in no record by themselves."""
    for _, index, item in stream(path, sections={""}):
        place = coco_rows.source_place(path, "", index)
        try:
            width, height = field(item, "width", int), field(item, "height", int)
            if width < 1 or height < 1:
                raise BadRecord("bad_size", f"width = {width}, height = {height}")
            yield Row(_id(item), "image", {"width": width, "height": height, "source": place})
        except BadRecord as bad:
            yield Letter(_name(item), "image_data", "read", bad.reason, bad.error, place, {})


def read_regions(path: str) -> Iterator[Row | Letter]:
    """Regions by image id."""
    for _, index, item in stream(path, sections={""}):
        place = coco_rows.source_place(path, "", index)
        try:
            image, regions = _id(item), field(item, "regions", list)
        except BadRecord as bad:
            yield Letter(_name(item), "image_data", "read", bad.reason, bad.error, place, {})
            continue
        for number, region in enumerate(regions):
            at = f"{place}.regions[{number}]"
            try:
                yield Row(image, "region", {**_region(region), "source": at}, {"region": 1})
            except BadRecord as bad:
                yield Letter(f"{image}/{number}", "region", "read", bad.reason, bad.error, at, {"region": 1})


def _region(item: Any) -> dict[str, Any]:
    box = [field(item, name, object) for name in ("x", "y", "width", "height")]
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box):
        raise BadRecord("bad_box", f"x, y, width, height = {box}; expected finite numbers")
    phrase = checked_text(" ".join(field(item, "phrase", str).split()))
    if not phrase:
        raise BadRecord("empty_text", "the phrase is blank")
    return {"id": field(item, "region_id" if "region_id" in item else "id", int), "bbox": box, "phrase": phrase}


def _id(item: Any) -> int:
    return field(item, "image_id" if isinstance(item, Mapping) and "image_id" in item else "id", int)


def _name(item: Any) -> str:
    return str(item.get("image_id", item.get("id", "?"))) if isinstance(item, Mapping) else "?"
